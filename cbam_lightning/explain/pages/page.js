"use strict";

/* Shared by all pages: their data, and maps as canvases. */

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const items = Array.from(document.querySelectorAll("script.item"), (element) => JSON.parse(element.textContent));
const colours = bytes(data.colours);

function bytes(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

function colour(value) {
  return [...colours.subarray(3 * value, 3 * value + 3), 255];
}

/* Returns a canvas with one pixel per value; the browser enlarges it. */
function gridCanvas(values, rows, columns, paint = colour) {
  const canvas = Object.assign(document.createElement("canvas"), { width: columns, height: rows });
  const image = new ImageData(columns, rows);
  values.forEach((value, index) => image.data.set(paint(value), 4 * index));
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}


"use strict";

const PAGE_SIZE = 24;
const OPACITY = 0.5;

const data = JSON.parse(document.getElementById("data").textContent);
const items = Array.from(document.querySelectorAll("script.item"), (element, index) => {
  const item = JSON.parse(element.textContent);
  item.index = index;
  return item;
});
const colours = bytes(data.colours);

function bytes(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/* A name such as resnet20_cbam.fashion_mnist may break where its parts meet. */
function breakable(text) {
  return text.split(/(?<=[._/-])/).flatMap((part) => [part, make("wbr")]);
}

function percent(value) {
  return `${(100 * value).toFixed(1)} %`;
}

/* Grids: bytes of height x width cells, drawn as colours and enlarged by the browser. */

function gridCanvas(grid, paint) {
  const canvas = make("canvas", { width: grid.width, height: grid.height });
  const context = canvas.getContext("2d");
  const picture = context.createImageData(grid.width, grid.height);
  bytes(grid.bytes).forEach((value, cell) => picture.data.set(paint(value), 4 * cell));
  context.putImageData(picture, 0, 0);
  return canvas;
}

function colour(value) {
  return [...colours.slice(3 * value, 3 * value + 3), 255];
}

function grey(value) {
  return [value, value, value, 255];
}

function overlay(image, grid) {
  const canvas = make("canvas", { width: 224, height: 224 });
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  context.globalAlpha = OPACITY;
  context.drawImage(gridCanvas(grid, colour), 0, 0, canvas.width, canvas.height);
  return canvas;
}

function curve(grid) {
  const canvas = make("canvas", { width: 208, height: 96, className: "curve" });
  const context = canvas.getContext("2d");
  const values = bytes(grid.bytes);
  context.strokeStyle = getComputedStyle(document.body).getPropertyValue("--accent");
  context.lineWidth = 4;
  context.beginPath();
  values.forEach((value, index) => {
    const x = values.length > 1 ? (index / (values.length - 1)) * (canvas.width - 8) + 4 : canvas.width / 2;
    context.lineTo(x, canvas.height - 6 - (value / 255) * (canvas.height - 12));
  });
  context.stroke();
  return canvas;
}

/* One image. */

function caption(label, look) {
  const wrong = look.predicted !== look.target;
  const lines = [make("span", { className: "name" }, ...breakable(label))];
  lines.push(make("span", { textContent: `P(${data.classes[look.target]}) = ${look.probability.toFixed(3)}` }));
  if (wrong) {
    const text = `says ${data.classes[look.predicted]}, ${percent(look.confidence)}`;
    lines.push(make("br"), make("span", { className: "wrong", textContent: text }));
  }
  for (const name of ["deletion", "insertion", "inside", "extent"]) {
    if (look[name] !== null) {
      lines.push(make("br"), make("span", { className: "muted", textContent: `${name} ${look[name].toFixed(3)}` }));
    }
  }
  return make("figcaption", {}, ...lines);
}

function range(grid) {
  return `${grid.low.toFixed(3)} to ${grid.high.toFixed(3)}`;
}

function gateFigure(gates) {
  const parts = [];
  const lines = [gates.module.replaceAll(".", ".\u200b")]; // may break after a dot
  if (gates.spatial) {
    parts.push(gridCanvas(gates.spatial, grey));
    lines.push(`positions ${range(gates.spatial)}`);
  }
  if (gates.channel) {
    parts.push(curve(gates.channel));
    lines.push(`channels ${range(gates.channel)}`);
  }
  const texts = lines.map((text) => make("div", { textContent: text }));
  return make("figure", {}, ...parts, make("figcaption", {}, ...texts));
}

function gateDetails(item) {
  const networks = item.looks.map((look, k) => [data.networks[k].label, look.gates]).filter(([, g]) => g.length);
  if (!networks.length) {
    return [];
  }
  const details = make("details", {}, make("summary", { textContent: "Gates, from the first module to the last" }));
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) {
      for (const [label, gates] of networks) {
        details.append(make("div", { textContent: label }), make("div", { className: "gates" }, ...gates.map(gateFigure)));
      }
    }
  });
  return [details];
}

function card(item) {
  const looks = make("div", { className: "looks" });
  const picture = make("img", { alt: item.name });
  const truth = item.label >= 0 ? data.classes[item.label] : "class unknown";
  looks.append(make("figure", {}, picture, make("figcaption", { textContent: "image" })));
  picture.addEventListener("load", () => {
    item.looks.forEach((look, k) => {
      const canvas = overlay(picture, look.map);
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `Grad-CAM of ${data.networks[k].label}`);
      looks.append(make("figure", {}, canvas, caption(data.networks[k].label, look)));
    });
  }, { once: true });
  picture.src = item.image;
  const heading = make("h2", { textContent: `${truth} ` }, make("span", { className: "muted", textContent: item.name }));
  return make("section", { className: "image" }, heading, looks, ...gateDetails(item));
}

/* Which images, and in which order. */

function spread(item) {
  const values = item.looks.map((look) => look.probability);
  return Math.max(...values) - Math.min(...values);
}

function mapDistance(item) {
  const maps = item.looks.map((look) => bytes(look.map.bytes));
  let largest = 0;
  for (let a = 0; a < maps.length; a += 1) {
    for (let b = a + 1; b < maps.length; b += 1) {
      largest = Math.max(largest, 1 - cosine(maps[a], maps[b]));
    }
  }
  return largest;
}

function cosine(a, b) {
  if (a.length !== b.length) {
    return 0;
  }
  let product = 0;
  let squaresA = 0;
  let squaresB = 0;
  for (let i = 0; i < a.length; i += 1) {
    product += a[i] * b[i];
    squaresA += a[i] * a[i];
    squaresB += b[i] * b[i];
  }
  return squaresA && squaresB ? product / Math.sqrt(squaresA * squaresB) : 0;
}

const isWrong = (item, look) => look.predicted !== (item.label >= 0 ? item.label : look.target);
const shows = [
  ["all images", () => true],
  ["any network wrong", (item) => item.looks.some((look) => isWrong(item, look))],
  ["predictions differ", (item) => new Set(item.looks.map((look) => look.predicted)).size > 1],
  ...data.networks.map((network, k) => [`wrong: ${network.label}`, (item) => isWrong(item, item.looks[k])]),
];
const sorts = [
  ["order of the images", (item) => item.index],
  ["disagreement on P", spread],
  ["disagreement of the maps", mapDistance],
  ...data.networks.map((network, k) => [`P: ${network.label}`, (item) => item.looks[k].probability]),
];
const field = (name) => document.getElementById(name);
let chosen = [];
let visible = 0;

function more() {
  const next = chosen.slice(visible, visible + PAGE_SIZE);
  field("images").append(...next.map(card));
  visible += next.length;
  field("more").hidden = visible >= chosen.length;
  field("count").textContent = `${visible} of ${chosen.length} images (${items.length} in all)`;
}

function update() {
  const wanted = Number(field("class").value);
  const [, keep] = shows[Number(field("show").value)];
  const [, key] = sorts[Number(field("sort").value)];
  const order = Number(field("order").value);
  const classOf = (item) => (item.label >= 0 ? item.label : item.looks[0].target);
  chosen = items
    .filter((item) => (wanted < 0 || classOf(item) === wanted) && keep(item))
    .map((item) => [key(item), item])
    .sort(([a, first], [b, second]) => order * (a - b) || first.index - second.index)
    .map(([, item]) => item);
  field("images").replaceChildren();
  visible = 0;
  more();
}

function options(name, texts) {
  field(name).append(...texts.map(([value, text]) => make("option", { value: String(value), textContent: text })));
  field(name).addEventListener("change", update);
}

/* The table over all images. */

function estimate(found, signed) {
  if (!found) {
    return "";
  }
  const shown = (value) => (signed && value >= 0 ? "+" : "") + value.toFixed(3);
  return shown(found.mean) + (found.low === null ? "" : ` (${shown(found.low)} to ${shown(found.high)})`);
}

function writeSummary() {
  const names = Object.keys(data.figures).filter((name) => data.networks.some((n) => n.figures[name]));
  const head = make("tr", {}, make("th", { textContent: "network" }));
  names.forEach((name) => head.append(make("th", { textContent: name, title: data.figures[name] })));
  field("summary").append(head);
  const row = (label, figures, signed) => {
    const cells = names.map((name) => make("td", { textContent: estimate(figures[name], signed) }));
    field("summary").append(make("tr", {}, make("td", { textContent: label }), ...cells));
  };
  data.networks.forEach((network) => row(network.label, network.figures, false));
  const first = data.networks[0].label;
  data.networks.slice(1).forEach((network) => row(`${network.label} - ${first}`, network.differences, true));
  field("legend").textContent = `${names.map((name) => `${name}: ${data.figures[name]}`).join("; ")}. `
    + "In brackets 95 % intervals of the mean over the images, each by itself.";
  const layers = data.networks.map((network) => `${network.label}: ${network.layer}`).join("; ");
  field("about").textContent = `Grad-CAM, each map relative to its own maximum, at the layer ${layers}.`;
}

writeSummary();
const known = new Set(items.map((item) => (item.label >= 0 ? item.label : item.looks[0].target)));
options("class", [[-1, "all"], ...data.classes.map((name, k) => [k, name]).filter(([k]) => known.has(k))]);
options("show", shows.map(([text], k) => [k, text]));
options("sort", sorts.map(([text], k) => [k, text]));
field("order").addEventListener("change", update);
field("more").addEventListener("click", more);
field("controls").addEventListener("submit", (event) => event.preventDefault());
update();

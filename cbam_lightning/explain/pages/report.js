const PAGE_SIZE = 24;
const OPACITY = 0.5;

items.forEach((item, index) => { item.index = index; });

function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/* Lets a name such as resnet20_cbam.fashion_mnist break between its parts. */
function breakable(text) {
  return text.split(/(?<=[._/-])/).flatMap((part) => [part, make("wbr")]);
}

function percent(value) {
  return `${(100 * value).toFixed(1)}%`;
}

/* Drawing. */

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
  context.drawImage(gridCanvas(bytes(grid.bytes), grid.height, grid.width), 0, 0, canvas.width, canvas.height);
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

/* A card per image. */

function caption(label, explanation) {
  const wrong = explanation.predicted !== explanation.target;
  const lines = [make("span", { className: "name" }, ...breakable(label))];
  lines.push(make("span", { textContent: `P(${data.classes[explanation.target]}) = ${explanation.probability.toFixed(3)}` }));
  if (wrong) {
    const text = `says ${data.classes[explanation.predicted]}, ${percent(explanation.confidence)}`;
    lines.push(make("br"), make("span", { className: "wrong", textContent: text }));
  }
  for (const name of ["deletion", "insertion", "inside", "extent"]) {
    if (explanation[name] !== null) {
      lines.push(make("br"), make("span", { className: "muted", textContent: `${name} ${explanation[name].toFixed(3)}` }));
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
    const { bytes: values, height, width } = gates.spatial;
    parts.push(gridCanvas(bytes(values), height, width, grey));
    lines.push(`spatial ${range(gates.spatial)}`);
  }
  if (gates.attention) {
    const { bytes: values, height, width } = gates.attention;
    parts.push(gridCanvas(bytes(values), height, width));
    lines.push(`attention up to ${gates.attention.high.toFixed(3)}, mean 1`);
  }
  if (gates.channel) {
    parts.push(curve(gates.channel));
    lines.push(`channel ${range(gates.channel)}`);
  }
  const texts = lines.map((text) => make("div", { textContent: text }));
  return make("figure", {}, ...parts, make("figcaption", {}, ...texts));
}

function gateDetails(item) {
  const networks = item.explanations.map((explanation, k) => [data.networks[k].label, explanation.gates]).filter(([, g]) => g.length);
  if (!networks.length) {
    return [];
  }
  const details = make("details", {}, make("summary", { textContent: "Gates and self-attention, from first to last module" }));
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
  const maps = make("div", { className: "maps" });
  const picture = make("img", { alt: item.name });
  const truth = item.label >= 0 ? data.classes[item.label] : "class unknown";
  maps.append(make("figure", {}, picture, make("figcaption", { textContent: "image" })));
  picture.addEventListener("load", () => {
    item.explanations.forEach((explanation, k) => {
      const canvas = overlay(picture, explanation.map);
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `Grad-CAM of ${data.networks[k].label}`);
      maps.append(make("figure", {}, canvas, caption(data.networks[k].label, explanation)));
    });
  }, { once: true });
  picture.src = item.image;
  const heading = make("h2", { textContent: `${truth} ` }, make("span", { className: "muted", textContent: item.name }));
  const reason = item.unmasked ? [make("p", { className: "muted", textContent: `Not measured inside a mask: ${item.unmasked}.` })] : [];
  return make("section", { className: "image" }, heading, maps, ...reason, ...gateDetails(item));
}

/* Filtering and sorting. */

function spread(item) {
  const values = item.explanations.map((explanation) => explanation.probability);
  return Math.max(...values) - Math.min(...values);
}

function mapDistance(item) {
  const maps = item.explanations.map((explanation) => bytes(explanation.map.bytes));
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

const isWrong = (item, explanation) => explanation.predicted !== (item.label >= 0 ? item.label : explanation.target);
const shows = [
  ["all images", () => true],
  ["misclassified by any network", (item) => item.explanations.some((explanation) => isWrong(item, explanation))],
  ["predictions differ", (item) => new Set(item.explanations.map((explanation) => explanation.predicted)).size > 1],
  ...data.networks.map((network, k) => [`misclassified by ${network.label}`, (item) => isWrong(item, item.explanations[k])]),
];
const sorts = [
  ["original order", (item) => item.index],
  ["disagreement in P", spread],
  ["disagreement between maps", mapDistance],
  ...data.networks.map((network, k) => [`P: ${network.label}`, (item) => item.explanations[k].probability]),
];
let chosen = [];
let visible = 0;

function more() {
  const next = chosen.slice(visible, visible + PAGE_SIZE);
  byId("images").append(...next.map(card));
  visible += next.length;
  byId("more").hidden = visible >= chosen.length;
  byId("count").textContent = `Showing ${visible} of ${chosen.length} matching images (${items.length} in total)`;
}

function update() {
  const wanted = Number(byId("class").value);
  const [, keep] = shows[Number(byId("show").value)];
  const [, key] = sorts[Number(byId("sort").value)];
  const order = Number(byId("order").value);
  const classOf = (item) => (item.label >= 0 ? item.label : item.explanations[0].target);
  chosen = items
    .filter((item) => (wanted < 0 || classOf(item) === wanted) && keep(item))
    .map((item) => [key(item), item])
    .sort(([a, first], [b, second]) => order * (a - b) || first.index - second.index)
    .map(([, item]) => item);
  byId("images").replaceChildren();
  visible = 0;
  more();
}

function options(name, texts) {
  byId(name).append(...texts.map(([value, text]) => make("option", { value: String(value), textContent: text })));
  byId(name).addEventListener("change", update);
}

/* A table per measure, over all images. */

function estimate(found, signed) {
  const shown = (value) => (signed && value >= 0 ? "+" : "") + value.toFixed(3);
  const parts = [shown(found.mean), ...(found.low === null ? [] : [`(${shown(found.low)} to ${shown(found.high)})`])];
  return parts.flatMap((textContent) => [make("span", { textContent }), " "]); // may break between the two
}

/* Of a network after the first: its difference from the first. */
function difference(network, name) {
  const found = network.differences[name];
  if (!found) {
    return [];
  }
  const pairs = found.images === network.figures[name].images ? [] : [`on ${found.images} images`];
  return [make("div", { className: "muted" }, ...estimate(found, true), ...pairs)];
}

function measureTable(name) {
  const caption = make("caption", {}, make("strong", { textContent: name }), `: ${data.figures[name]}`);
  const heads = ["network", "mean", "images"].map((text) => make("th", { scope: "col", textContent: text }));
  const lines = data.networks.filter((network) => network.figures[name]).map((network) => make(
    "tr",
    {},
    make("th", { scope: "row" }, ...breakable(network.label)),
    make("td", {}, ...estimate(network.figures[name], false), ...difference(network, name)),
    make("td", { textContent: network.figures[name].images }),
  ));
  return make("table", {}, caption, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...lines));
}

function writeSummary() {
  const names = Object.keys(data.figures).filter((name) => data.networks.some((n) => n.figures[name]));
  byId("summary").append(...names.map(measureTable));
  byId("legend").textContent = "Each mean is over as many images as its row says; brackets hold its 95 % confidence interval. "
    + (data.networks.length > 1 ? `With a sign: the difference from ${data.networks[0].label}, image by image.` : "");
  const layers = data.networks.map((network) => `${network.label}: ${network.layer}`).join("; ");
  byId("about").textContent = `Grad-CAM, each map scaled to its own maximum. Layers: ${layers}.`;
}

function writeSkipped() {
  const names = Object.keys(data.skipped);
  if (names.length) {
    const title = `Skipped: ${names.length} of ${names.length + items.length} images, which cannot be read`;
    const lines = names.map((name) => make("li", { textContent: `${name}: ${data.skipped[name]}` }));
    byId("skipped").append(make("details", {}, make("summary", { textContent: title }), make("ul", {}, ...lines)));
  }
}

writeSkipped();
writeSummary();
const known = new Set(items.map((item) => (item.label >= 0 ? item.label : item.explanations[0].target)));
options("class", [[-1, "all"], ...data.classes.map((name, k) => [k, name]).filter(([k]) => known.has(k))]);
options("show", shows.map(([text], k) => [k, text]));
options("sort", sorts.map(([text], k) => [k, text]));
byId("order").addEventListener("change", update);
byId("more").addEventListener("click", more);
byId("controls").addEventListener("submit", (event) => event.preventDefault());
update();

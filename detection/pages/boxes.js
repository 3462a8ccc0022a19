"use strict";
// Boxes and their labels in the vector graphics above an image.

const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function mark(box, colour, style, text) {
  const [x1, y1, x2, y2] = box;
  const group = element("g", { class: `mark ${style}` });
  const [width, height] = [Math.max(1, x2 - x1), Math.max(1, y2 - y1)];
  group.append(element("title", {}, text), element("rect", { x: x1, y: y1, width, height, stroke: colour }));
  return group;
}

// Measures text in the font of the labels, see page.css.
const ruler = document.createElement("canvas").getContext("2d");
ruler.font = "600 13px system-ui, sans-serif";

// Labels of boxes, the most important first; one that would cover another is left to the tooltip.
function label(svg, boxes) {
  const whole = svg.viewBox.baseVal;
  const scale = whole.width / (svg.getBoundingClientRect().width || Number(svg.dataset.width));
  const taken = [];
  for (const [[x1, y1, , y2], text] of boxes) {
    const short = text.length > 28 ? `${text.slice(0, 20)}… ${text.slice(-4)}` : text;
    const [wide, high] = [(ruler.measureText(short).width + 6) * scale, 16 * scale];
    const x = Math.max(2, Math.min(x1, whole.width - wide));
    const free = [y1 - 4 * scale, y1 + high, y2 + high].find((y) => y >= high && y <= whole.height
      && taken.every(([left, right, base]) => right <= x || left >= x + wide || Math.abs(base - y) >= high));
    if (free === undefined) continue;
    taken.push([x, x + wide, free]);
    const written = element("g", { class: "mark" });
    written.append(element("text", { x: x + 2 * scale, y: free - 2 * scale }, short));
    svg.append(written);
  }
}

function share(part, whole) {
  return whole ? (part / whole).toFixed(3) : "-";
}

// What the filters leave of ``cases`` (nodes with a number by which they are shown, the largest
// first, or null), in their order and not more than fit.
function arrange(cases, limit, more, shown) {
  const order = cases.map(([node, rank], index) => [node, rank, index]);
  order.sort((left, right) => (right[1] ?? 0) - (left[1] ?? 0) || left[2] - right[2]);
  let fitting = 0;
  for (const [node, rank] of order) {
    fitting += rank !== null;
    node.hidden = rank === null || fitting > limit;
    node.parentNode.append(node);
  }
  more.hidden = fitting <= limit;
  shown.textContent = `${Math.min(limit, fitting)} of ${fitting} images shown`;
}

"use strict";
// Tables sort by a click on a heading; images are enlarged by a click or Enter, and stepped through.

function valueOf(row, column) {
  const cell = row.cells[column];
  const text = (cell.dataset.value ?? cell.textContent).trim();
  const number = parseFloat(text.replace(/,/g, ""));
  return Number.isNaN(number) ? text : number;
}

function compare(left, right) {
  if (typeof left === "number" && typeof right === "number") return left - right;
  if (typeof left !== typeof right) return typeof left === "number" ? -1 : 1;
  return left.localeCompare(right);
}

function sortBy(table, column) {
  const heading = table.tHead.rows[0].cells[column];
  const falling = heading.getAttribute("aria-sort") === "descending";
  const order = falling || (!heading.hasAttribute("aria-sort") && !heading.classList.contains("number"))
    ? 1 : -1;
  for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", order === 1 ? "ascending" : "descending");
  const undefinedLast = (value) => value === "-" || value === "";
  const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row, column), row]);
  rows.sort(([left], [right]) => {
    if (undefinedLast(left) || undefinedLast(right)) return undefinedLast(left) - undefinedLast(right);
    return order * compare(left, right);
  });
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "sort";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => sortBy(table, column));
  });
}

// Labels have the size of the text beside them, whatever the size at which an image is shown, and
// end within it.
const sizes = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const wide = target.getBoundingClientRect().width;
    const whole = target.viewBox.baseVal.width;
    if (!wide) continue;
    target.style.fontSize = `${(13 * whole) / wide}px`;
    for (const text of target.querySelectorAll("text")) {
      const { x, width } = text.getBBox();
      if (x + width > whole) text.setAttribute("x", Math.max(0, whole - width));
    }
  }
});

function watch(root) {
  for (const boxes of root.querySelectorAll(".frame svg")) sizes.observe(boxes);
}
watch(document);

const viewer = document.createElement("dialog");
viewer.setAttribute("aria-label", "enlarged image");
const bar = document.createElement("nav");
const place = document.createElement("span");
const stage = document.createElement("div");
let shown = null;

// What is enlarged as a whole: a case of two images, or one image.
function groups() {
  return [...document.querySelectorAll("main .shot")]
    .map((shot) => shot.closest(".case") ?? shot)
    .filter((group, at, all) => all.indexOf(group) === at && group.offsetParent !== null);
}

function enlarge(group) {
  const all = groups();
  shown = group;
  place.textContent = `${all.indexOf(group) + 1} of ${all.length}`;
  stage.replaceChildren(group.cloneNode(true));
  if (!viewer.open) viewer.showModal();
  const images = stage.querySelectorAll("img");
  const beside = images.length > 1 && stage.clientWidth > 600 ? images.length : 1;
  for (const image of images) {
    const { naturalWidth: width, naturalHeight: height } = image;
    const scale = Math.min((stage.clientWidth / beside - 12) / width, (innerHeight * 0.8) / height);
    if (width) [image.width, image.height] = [width * scale, height * scale];
  }
  watch(stage);
}

function step(by) {
  const all = groups();
  const next = all[all.indexOf(shown) + by];
  if (next) enlarge(next);
}

for (const [name, action] of [["previous", () => step(-1)], ["next", () => step(1)], ["close", () => viewer.close()]]) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = name;
  button.addEventListener("click", action);
  bar.append(button);
}
bar.append(place);
viewer.append(bar, stage);
document.body.append(viewer);
viewer.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
viewer.addEventListener("close", () => shown?.querySelector(".frame")?.focus());

function openable(root) {
  for (const frame of root.querySelectorAll(".frame")) {
    frame.tabIndex = 0;
    frame.setAttribute("role", "button");
  }
}
openable(document);
document.querySelector("main").addEventListener("click", (event) => {
  const shot = event.target.closest(".frame")?.closest(".shot");
  if (shot) enlarge(shot.closest(".case") ?? shot);
});
document.querySelector("main").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.target.classList.contains("frame")) {
    const shot = event.target.closest(".shot");
    enlarge(shot.closest(".case") ?? shot);
  }
});

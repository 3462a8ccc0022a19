"use strict";

const part = (id) => document.getElementById(id);
/** Canvases of phones hold no more pixels. */
const LARGEST = 16e6;
/** {name, file, record}: every image that was predicted; the shown one and its pixels. */
const images = [];
let shown = null;
let bitmap = null;
let kind = "detections";
let classes = [];
let hidden = new Set();
let chosen = -1;
let zoom = 0; // 0: fit
let token = "";

// ------------------------------------------------------------------------------ the server

async function ask(path, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const answer = await fetch(path, { ...options, headers });
  if (answer.status === 401) part("access").hidden = false;
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(found.error || `the server answered ${answer.status}`);
  return found;
}

async function readModel() {
  const model = await ask("model");
  ({ results: kind, classes } = model);
  const weights = model.weights.join(", ");
  part("model").textContent = `${model.architecture} · ${model.classes.length} classes · ${weights}`;
  part("score").value = model.score_threshold;
  part("place").hidden = kind === "classes";
  part("access").hidden = true;
}

async function predict(files) {
  const chosenFiles = [...files];
  let failed = 0;
  for (const [index, file] of chosenFiles.entries()) {
    const name = file.name || "pasted";
    say(`Predicting ${name} (${index + 1} of ${chosenFiles.length}) …`);
    try {
      const query = `score=0&file=${encodeURIComponent(name.slice(-200))}`;
      const record = await ask(`predict?${query}`, { method: "POST", body: file });
      images.push({ name, file, record });
      list();
      await show(images.length - 1);
    } catch (error) {
      failed += 1;
      say(`${name}: ${error.message}`, true);
    }
  }
  if (chosenFiles.length && !failed) tell();
}

/** The pixels as displayed; null for formats that the browser does not know. */
async function decode(file) {
  try {
    return await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    return null;
  }
}

// ------------------------------------------------------------------------------- the result

/** What the record holds, each with its number; classes of a classifier have no box. */
const found = () => shown.record[kind].map((one, number) => ({ ...one, number }));
const visible = () =>
  found().filter((one) => one.score >= Number(part("score").value) && !hidden.has(one.label));

/** Neighbours in the list of classes are far apart on the circle of colours. */
const colour = (label) => `hsl(${(classes.indexOf(label) * 137.5 + 210) % 360} 80% 38%)`;

function say(text, wrong = false) {
  part("status").textContent = text;
  part("status").classList.toggle("wrong", wrong);
}

function tell() {
  if (shown) say(`${shown.name}: ${counted()}`);
}

function counted() {
  const [some, every] = [visible().length, found().length];
  if (some < every) return `${some} of ${every} ${kind}`;
  return every === 1 ? `1 ${kind === "classes" ? "class" : "detection"}` : `${every} ${kind}`;
}

function list() {
  part("images").replaceChildren(
    ...images.map((image, index) => new Option(image.name, String(index))),
  );
  part("several").hidden = images.length < 2;
}

async function show(index) {
  const pixels = await decode(images[index].file);
  bitmap?.close();
  [shown, bitmap] = [images[index], pixels];
  part("images").value = String(index);
  part("result").hidden = false;
  hidden = new Set();
  chosen = -1;
  zoom = 0;
  const { record } = shown;
  const notes = [...record.warnings];
  if (!bitmap) notes.push("this browser cannot show the image; the boxes are right");
  else if (bitmap.width !== record.width || bitmap.height !== record.height)
    notes.push("the model sees the image without its EXIF orientation");
  part("notes").replaceChildren(...notes.map((note) => element("li", note)));
  filters();
  update();
}

function filters() {
  const counts = new Map();
  for (const one of found()) counts.set(one.label, (counts.get(one.label) || 0) + 1);
  const labels = [...counts.keys()].sort((a, b) => a.localeCompare(b));
  part("boxes").replaceChildren(...labels.map((label) => filter(label, counts.get(label))));
}

function filter(label, count) {
  const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
  box.addEventListener("change", () => {
    if (box.checked) hidden.delete(label);
    else hidden.add(label);
    update();
  });
  const swatch = element("span", "");
  swatch.className = "swatch";
  swatch.style.background = colour(label);
  const line = document.createElement("label");
  line.append(box, swatch, `${label} (${count})`);
  return line;
}

function element(name, text) {
  return Object.assign(document.createElement(name), { textContent: text });
}

function update() {
  if (!shown) return;
  part("least").textContent = Number(part("score").value).toFixed(2);
  const list = visible();
  part("count").textContent = counted();
  part("rows").replaceChildren(...list.map(row));
  const { width, height } = shown.record;
  part("canvas").setAttribute(
    "aria-label",
    `${shown.name}, ${width} by ${height} pixels, ${counted()}: ` +
      list.map((one) => `${one.label} ${one.score.toFixed(2)}`).join(", "),
  );
  draw();
  tell();
}

function row(one) {
  const line = document.createElement("tr");
  const choose = Object.assign(element("button", one.label), { type: "button" });
  choose.setAttribute("aria-pressed", String(one.number === chosen));
  choose.addEventListener("click", () => {
    chosen = chosen === one.number ? -1 : one.number;
    update();
    part("rows").querySelector(`[data-number="${one.number}"] button`)?.focus();
  });
  line.dataset.number = String(one.number);
  line.classList.toggle("chosen", one.number === chosen);
  const label = document.createElement("td");
  label.append(kind === "classes" ? one.label : choose);
  line.append(label, element("td", one.score.toFixed(3)));
  if (one.box) line.append(element("td", one.box.map((side) => side.toFixed(0)).join(", ")));
  return line;
}

// ------------------------------------------------------------------------------- the canvas

function draw() {
  const canvas = part("canvas");
  const { width, height } = shown.record;
  const factor = Math.min(1, Math.sqrt(LARGEST / (width * height)));
  const size = [Math.round(width * factor), Math.round(height * factor)];
  if (canvas.width !== size[0] || canvas.height !== size[1])
    [canvas.width, canvas.height] = size;
  const scale = zoom || Math.min(1, part("frame").clientWidth / width);
  canvas.style.width = `${width * scale}px`;
  canvas.style.height = `${height * scale}px`;
  part("zoom").textContent = `${Math.round(100 * scale)} %`;
  paint(canvas.getContext("2d"), factor, factor / scale);
}

/** Draw the image and its boxes; `factor`: canvas pixels of one pixel of the image; `unit`: those
 * of a pixel of the screen, in which lines and letters are measured. */
function paint(context, factor, unit) {
  const { canvas } = context;
  context.fillStyle = "#888";
  context.fillRect(0, 0, canvas.width, canvas.height);
  if (bitmap) context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  context.font = `600 ${14 * unit}px system-ui, sans-serif`;
  context.textBaseline = "top";
  for (const one of visible().reverse()) {
    if (!one.box) continue;
    const [x1, y1, x2, y2] = one.box.map((side) => side * factor);
    context.strokeStyle = colour(one.label);
    context.lineWidth = (one.number === chosen ? 5 : 2) * unit;
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    const text = `${one.label} ${one.score.toFixed(2)}`;
    const [wide, tall] = [context.measureText(text).width + 8 * unit, 19 * unit];
    const left = Math.max(0, Math.min(x1, canvas.width - wide));
    const top = y1 >= tall ? y1 - tall : y1;
    context.fillStyle = colour(one.label);
    context.fillRect(left, top, wide, tall);
    context.fillStyle = "#fff";
    context.fillText(text, left + 4 * unit, top + 3 * unit);
  }
}

function setZoom(factor) {
  if (!shown) return;
  const now = part("canvas").clientWidth / shown.record.width;
  zoom = factor ? Math.min(8, Math.max(0.05, now * factor)) : 0;
  draw();
}

// --------------------------------------------------------------------------------- downloads

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const stem = () => shown.name.replace(/\.[^.]*$/, "") || "image";

function saveJson() {
  const kept = visible().map(({ number, ...one }) => one);
  const text = JSON.stringify({ ...shown.record, [kind]: kept }, null, 1);
  save(new Blob([text], { type: "application/json" }), `${stem()}.json`);
}

function saveImage() {
  const canvas = document.createElement("canvas");
  const { width, height } = shown.record;
  const factor = Math.min(1, Math.sqrt(LARGEST / (width * height)));
  canvas.width = Math.round(width * factor);
  canvas.height = Math.round(height * factor);
  const unit = Math.max(1, Math.min(canvas.width, canvas.height) / 600);
  paint(canvas.getContext("2d"), factor, unit);
  canvas.toBlob((blob) => save(blob, `${stem()}-drawn.png`), "image/png");
}

// ------------------------------------------------------------------------------------ events

part("files").addEventListener("change", (event) => {
  predict(event.target.files).then(() => (event.target.value = ""));
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  part("drop").classList.add("over");
});
document.addEventListener("dragleave", () => part("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  part("drop").classList.remove("over");
  predict(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  const files = event.clipboardData.files;
  if (files.length) predict(files);
  else if (event.target !== part("token")) say("The clipboard holds no image.", true);
});
part("images").addEventListener("change", (event) => show(Number(event.target.value)));
part("score").addEventListener("input", update);
part("all").addEventListener("click", () => showClasses(true));
part("none").addEventListener("click", () => showClasses(false));
part("in").addEventListener("click", () => setZoom(1.25));
part("out").addEventListener("click", () => setZoom(0.8));
part("fit").addEventListener("click", () => setZoom(0));
part("json").addEventListener("click", saveJson);
part("png").addEventListener("click", saveImage);
addEventListener("resize", () => shown && draw());
part("access").addEventListener("submit", (event) => {
  event.preventDefault();
  token = part("token").value;
  readModel().then(() => say("Ready."), (error) => say(error.message, true));
});

function showClasses(visible) {
  hidden = visible ? new Set() : new Set(found().map((one) => one.label));
  for (const box of part("boxes").querySelectorAll("input")) box.checked = visible;
  update();
}

readModel().catch((error) => {
  part("model").textContent = "";
  say(error.message, true);
});

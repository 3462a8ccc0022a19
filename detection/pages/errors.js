"use strict";
// The errors of a detector: draws the boxes from the chosen score on, counts again, and filters.
{
  const data = JSON.parse(document.getElementById("errors").textContent);
  const cases = [...document.querySelectorAll(".case[data-case]")];
  const slider = document.getElementById("score");
  const classFilter = document.getElementById("class");
  const kindFilter = document.getElementById("kind");
  const sizeFilter = document.getElementById("size");
  const own = document.getElementById("own");
  const more = document.getElementById("more");
  const STEP = 8;
  let limit = STEP;

  const ERRORS = data.errors;
  const HITS = ["right", "classification", "localization"];

  const byClass = () => own !== null && own.checked;

  // What a case has from a score on, or from those of the classes: detections, and which objects
  // are missed.
  function at(entry, score) {
    const least = (label) => (byClass() ? data.own[label] ?? Infinity : score);
    const found = entry.detections.filter((each) => each[5] >= least(each[4]));
    const hit = new Set(found.filter((each) => HITS.includes(each[6])).map((each) => each[7]));
    const missed = entry.objects.map((object, index) => !object[5] && !hit.has(index));
    return { found, missed };
  }

  // The detections and missed objects of a case that the filters leave, and how many are errors.
  function chosenOf(entry, score, chosen, kind, size) {
    const { found, missed } = at(entry, score);
    const ofClass = (each) => chosen < 0 || each === chosen;
    const ofSize = (each) => size === 0 || each === size - 1;
    const wanted = found.filter((each) =>
      (ofClass(each[4]) || (each[7] >= 0 && ofClass(entry.objects[each[7]][4])))
      && (kind === "" || each[6] === kind) && ofSize(each[8]));
    const lost = entry.objects.filter((object, index) => missed[index] && ofClass(object[4])
      && (kind === "" || kind === "missed") && ofSize(object[6]));
    const objects = entry.objects.filter((object) => ofClass(object[4]) && ofSize(object[6]));
    const errors = wanted.filter((each) => ERRORS.includes(each[6])).length + lost.length;
    return { wanted, lost, objects, errors };
  }

  function draw(node, { wanted, lost, objects }) {
    const [truth, detected] = node.querySelectorAll("svg");
    if (truth) {
      const named = objects.map((object) => [object, data.classes[object[4]] + (object[5] ? " (ignored)" : "")]);
      truth.replaceChildren(...named.map(([object, text]) =>
        mark(object, data.colours[object[4]], object[5] ? "dotted" : "", text)));
      label(truth, named);
      const best = wanted.map((each) => [each, `${data.classes[each[4]]} ${each[5].toFixed(2)}`, each[6]]);
      const gone = lost.map((object) => [object, `missed: ${data.classes[object[4]]}`, "missed"]);
      detected.replaceChildren(...[...best, ...gone].reverse().map(([box, text, name]) =>
        mark(box, data.styles[name][1], data.styles[name][2], text)));
      label(detected, [...best.filter((each) => each[2] !== "right"), ...gone, ...best.filter((each) => each[2] === "right")]);
    }
    const words = ERRORS.map((name) => [name === "missed" ? lost.length
      : wanted.filter((each) => each[6] === name).length, data.styles[name][0]]);
    node.querySelector(".wrong").textContent =
      words.filter(([count]) => count).map(([count, name]) => `${count} ${name}`).join(", ") || "nothing wrong";
  }

  // Of the whole evaluation, not of the shown images alone.
  function recount(place, chosen, size) {
    const objects = data.counts.objects[size];
    const { kinds } = data.counts;
    const row = chosen < 0 || objects.length === 1 ? objects.length - 1 : chosen;
    const count = (name) => kinds[name][size][row][place];
    const right = count("right");
    const found = right + ERRORS.filter((name) => name !== "missed").reduce((sum, name) => sum + count(name), 0);
    document.getElementById("precision").textContent = share(right, found);
    document.getElementById("recall").textContent = share(right, objects[row]);
    const every = chosen >= 0 && objects.length === 1 ? " (of all classes)" : "";
    document.getElementById("of").textContent =
      `${right} of ${found} detections right, ${right} of ${objects[row]} objects found${every}`;
    for (const item of document.querySelectorAll(".legend [data-kind]")) {
      item.textContent = item.dataset.kind in kinds ? count(item.dataset.kind) : "";
      item.parentNode.setAttribute("aria-pressed", kindFilter.value === item.dataset.kind);
    }
  }

  function update() {
    const place = Number(slider.value);
    const score = data.scores[place];
    const chosen = Number(classFilter.value);
    const kind = kindFilter.value;
    document.getElementById("shown-score").textContent = byClass() ? "…" : score.toFixed(2);
    const size = Number(sizeFilter.value);
    recount(byClass() ? data.scores.length : place, chosen, size);
    const filtered = chosen >= 0 || kind !== "" || size > 0;
    const contents = data.cases.map((entry) => chosenOf(entry, score, chosen, kind, size));
    const ranked = cases.map((node, index) => [node, filtered && !contents[index].errors ? null : contents[index].errors]);
    arrange(ranked, limit, more, document.getElementById("visible"));
    cases.forEach((node, index) => node.hidden || draw(node, contents[index]));
  }

  for (const node of cases) {
    const [first, second] = node.querySelectorAll("img");
    if (second) second.src = first.src;
  }
  more.addEventListener("click", () => {
    limit += STEP;
    update();
  });
  const choose = (score) => {
    slider.value = String(data.scores.findLastIndex((each) => each <= score));
    if (own) own.checked = false;
  };
  slider.value = String(data.scores.findLastIndex((score) => score <= data.score));
  // Numbers lead to the images that they are made of.
  document.addEventListener("click", (event) => {
    const picked = event.target.closest("[data-pick-class], [data-pick-kind]");
    if (!picked) return;
    const { pickClass, pickKind, pickScore } = picked.dataset;
    if (pickScore !== undefined) choose(Number(pickScore));
    const known = [...kindFilter.options].some((option) => option.value === pickKind);
    const again = pickClass === undefined && kindFilter.value === pickKind;
    kindFilter.value = known && !again ? pickKind : "";
    if (pickClass !== undefined) {
      [classFilter.value, sizeFilter.value] = [pickClass, "0"];
      document.getElementById("wrong").scrollIntoView();
    }
    update();
  });
  // Chosen by hand, the score is one for all classes.
  slider.addEventListener("input", () => {
    if (own) own.checked = false;
  });
  for (const control of [slider, classFilter, kindFilter, sizeFilter, own]) control?.addEventListener("input", update);
  update();
}

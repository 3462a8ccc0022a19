"use strict";
// What a run found: draws the results from the chosen score on, counts again, filters and orders.
{
  const data = JSON.parse(document.getElementById("results").textContent);
  const cases = [...document.querySelectorAll(".case[data-case]")];
  const names = cases.map((node) => node.querySelector("h3").textContent);
  const slider = document.getElementById("score");
  const classFilter = document.getElementById("class");
  const order = document.getElementById("order");
  const more = document.getElementById("more");
  const STEP = 24;
  let limit = STEP;

  const RANKS = {
    doubt: (found) => found.reduce((sum, each) => sum + each[5] * (1 - each[5]), 0),
    most: (found) => found.length,
    fewest: (found) => -found.length,
    name: (found, node) => -names.filter((name) => name < names[cases.indexOf(node)]).length,
  };

  function draw(node, found) {
    const svg = node.querySelector("svg");
    const texts = found.map((each) => [each, `${data.classes[each[4]]} ${each[5].toFixed(2)}`]);
    const boxes = texts.filter(([[x1, , x2]]) => x2 > x1);
    if (svg) {
      svg.replaceChildren(...[...boxes].reverse().map(([box, text]) => mark(box, data.colours[box[4]], "", text)));
      label(svg, boxes);
    }
    const counts = new Map();
    for (const each of found) counts.set(each[4], (counts.get(each[4]) ?? 0) + 1);
    node.querySelector(".words").textContent =
      [...counts].map(([of, count]) => `${data.ranks ? "" : `${count} `}${data.classes[of]}`).join(", ") || "nothing found";
  }

  // Of the whole run, not of the shown images alone.
  function recount(place, chosen) {
    const known = data.counts.found.length > 1;
    const row = chosen < 0 || !known ? data.counts.found.length - 1 : chosen;
    document.getElementById("found").textContent = data.counts.found[row][place];
    document.getElementById("in").textContent = data.counts.in[row][place];
    document.getElementById("every").hidden = known || chosen < 0;
    for (const button of document.querySelectorAll(".legend [data-class]")) {
      const of = Number(button.dataset.class);
      button.querySelector("b").textContent = known ? data.counts.found[of][place] : "";
      button.setAttribute("aria-pressed", of === chosen);
    }
  }

  function update() {
    const place = Number(slider.value);
    const score = data.scores[place];
    const chosen = Number(classFilter.value);
    document.getElementById("shown-score").textContent = score.toFixed(2);
    document.getElementById("from").textContent = score.toFixed(2);
    recount(place, chosen);
    const contents = data.cases.map((found) =>
      found.filter((each) => each[5] >= score && (chosen < 0 || each[4] === chosen)));
    const rank = RANKS[order.value];
    arrange(
      cases.map((node, index) => [node, chosen >= 0 && !contents[index].length ? null : rank(contents[index], node)]),
      limit, more, document.getElementById("visible"));
    cases.forEach((node, index) => node.hidden || draw(node, contents[index]));
  }

  for (const button of document.querySelectorAll(".legend [data-class]")) {
    button.addEventListener("click", () => {
      classFilter.value = classFilter.value === button.dataset.class ? "-1" : button.dataset.class;
      update();
    });
  }
  more.addEventListener("click", () => {
    limit += STEP;
    update();
  });
  slider.value = String(Math.max(0, data.scores.findLastIndex((score) => score <= data.least)));
  slider.min = slider.value;
  for (const control of [slider, classFilter, order]) control.addEventListener("input", update);
  update();
}

"use strict";
// Two evaluations of the same images: draws the boxes of both, and filters the images.
{
  const data = JSON.parse(document.getElementById("changes").textContent);
  const cases = [...document.querySelectorAll(".case[data-case]")];
  const value = (id) => document.getElementById(id)?.value ?? "";
  const more = document.getElementById("more");
  const WRONG = (each) => each[6] !== "right" && each[6] !== "ignored";
  const STEP = 12;
  let limit = STEP;

  // The boxes of one side that the filters leave.
  function chosenOf(side, chosen, kind) {
    return side.filter((each) =>
      (chosen < 0 || each[4] === chosen || each[7] === chosen) && (kind === "" || each[6] === kind));
  }

  function draw(node, sides) {
    node.querySelectorAll(".frame svg").forEach((svg, index) => {
      const named = sides[index].map((each) => [each, each[5] === null
        ? `missed: ${data.classes[each[4]]}` : `${data.classes[each[4]]} ${each[5].toFixed(2)}`]);
      svg.replaceChildren(...[...named].reverse().map(([box, text]) =>
        mark(box, data.styles[box[6]][1], data.styles[box[6]][2], text)));
      label(svg, named.filter(([each]) => WRONG(each)));
      const counts = new Map();
      for (const each of sides[index].filter(WRONG)) counts.set(each[6], (counts.get(each[6]) ?? 0) + 1);
      node.querySelectorAll(".wrong")[index].textContent =
        [...counts].map(([name, count]) => `${count} ${data.styles[name][0]}`).join(", ") || "nothing wrong";
    });
  }

  function update() {
    const [change, chosen, kind] = [value("change"), Number(value("class")), value("kind")];
    const filtered = chosen >= 0 || kind !== "";
    const contents = data.cases.map((sides) => sides.map((side) => chosenOf(side, chosen, kind)));
    const fits = (node, index) => (change === "" || node.dataset.change === change)
      && (!filtered || (contents.length
        ? contents[index].some((side) => side.some(WRONG))
        : node.dataset.true === data.classes[chosen]));
    arrange(cases.map((node, index) => [node, fits(node, index) ? 0 : null]),
      limit, more, document.getElementById("visible"));
    if (contents.length) cases.forEach((node, index) => node.hidden || draw(node, contents[index]));
  }

  for (const node of cases) {
    const [first, second] = node.querySelectorAll("img");
    if (second) second.src = first.src;
  }
  more?.addEventListener("click", () => {
    limit += STEP;
    update();
  });
  for (const id of ["change", "class", "kind"]) document.getElementById(id)?.addEventListener("input", update);
  if (more) update();
}

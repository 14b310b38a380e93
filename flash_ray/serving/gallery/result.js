// One finished evaluation: its table by category, and its answers, the worst first.

import { AnswerPictures, paged, remarks, scroller } from "./answers.js";
import { element } from "./dom.js";
import { count, decimal, spaced, titleOf, withInterval } from "./format.js";
import { inputFile } from "./pictures.js";

export class Result {
  #box;
  #pictures = new AnswerPictures();

  /** `box` is where an evaluation is shown. */
  constructor(box) {
    this.#box = box;
  }

  /** Shows an evaluation that succeeded; `onClose` is called by its button. */
  show(evaluation, onClose) {
    const { cases, seed, scale, result } = evaluation;
    const title = element("h2", { tabIndex: -1 }, titleOf(evaluation));
    const close = element("button", { type: "button" }, "Close");
    close.addEventListener("click", onClose);
    const worst = [...result.answers].sort(
      (a, b) => rank(a) - rank(b) || a.case.localeCompare(b.case),
    );
    const brackets = result.interval ? " Brackets: 95 % interval." : "";
    const how = `${count(cases, "case")} a category, seed ${seed}. Scores: ${scale}.${brackets}`;
    const list = element("ol", { className: "answers" });
    list.classList.toggle(
      "edits",
      worst.some(({ references }) => references.length),
    );
    this.#box.append(
      element("div", { className: "heading" }, title, close),
      element("p", { className: "soft" }, how),
      scroller("Scores by category", categoryTable(result, scale)),
      element("h3", {}, "Answers, the worst first"),
      list,
    );
    const item = (answer) => this.#item(evaluation, answer);
    this.#box.append(paged(list, worst, item, this.#pictures));
    title.focus();
  }

  clear() {
    this.#pictures.clear();
    this.#box.replaceChildren();
  }

  #item({ model, scale }, answer) {
    const { case: id, prompt, score, picture, references } = answer;
    const frame = (path, name, description) =>
      this.#pictures.frame(path, `${model}-${name}`, description);
    const inputs = references.map((path, i) => frame(path, inputFile(id, i), `Input: ${prompt}`));
    const answered = frame(picture, `${id}.png`, `Answer: ${prompt}`);
    return element(
      "li",
      { tabIndex: -1 },
      element("div", { className: "pictures" }, ...inputs, answered),
      element(
        "p",
        {},
        element("strong", {}, decimal(score, scale)),
        element("span", { className: "soft" }, ` ${id}`),
      ),
      element("p", { className: "prompt" }, prompt),
      ...remarks(answer),
    );
  }
}

/** Answers without a score come after all others. */
const rank = ({ score }) => score ?? Number.MAX_VALUE;

/** A row for each category; the columns are what the judge measures and says of categories. */
function categoryTable(result, scale) {
  const { categories, counted, measures } = result;
  const line = (cells) => {
    const [name, ...values] = cells;
    const boxes = values.map((value) => element("td", { className: "number" }, value));
    return element("tr", {}, element("th", { scope: "row" }, name), ...boxes);
  };
  const measured = Object.keys(measures);
  const described = detailNames(Object.values(categories));
  const heads = ["category", "cases", "score", ...measured, ...described].map(spaced);
  const rows = Object.entries(categories).map(([name, row]) => {
    const parts = measured.map((measure) => decimal(row.measures[measure]));
    const details = described.map((detail) => detailOf(row.details[detail]));
    return line([name, casesOf(row), decimal(row.score, scale), ...parts, ...details]);
  });
  const all = Object.values(categories).reduce((sum, row) => sum + row.cases, 0);
  const parts = measured.map((measure) => decimal(measures[measure]));
  const total = [withInterval(result, scale), ...parts, ...described.map(() => "")];
  return element(
    "table",
    { className: "categories" },
    element(
      "thead",
      {},
      element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head))),
    ),
    element("tbody", {}, ...rows),
    element("tfoot", {}, line(["all", casesOf({ cases: all, counted }), ...total])),
  );
}

/** The names of details of categories that fit into a cell. */
function detailNames(rows) {
  const names = rows.flatMap(({ details }) =>
    Object.keys(details).filter((name) => ["number", "string"].includes(typeof details[name])),
  );
  return [...new Set(names)];
}

const detailOf = (value) => (typeof value === "number" ? value.toFixed(3) : (value ?? ""));

/** How many cases there are, and how many have a score if some have none. */
const casesOf = ({ cases, counted }) =>
  counted === cases ? String(cases) : `${cases}, ${counted} judged`;

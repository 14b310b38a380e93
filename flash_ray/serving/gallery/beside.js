// Two finished evaluations side by side: scores by category, then the answers to the same cases.

import { AnswerPictures, paged, remarks, scroller } from "./answers.js";
import { element } from "./dom.js";
import { count, decimal, extentOf, listed, rangeOf, signed } from "./format.js";
import { setColumns } from "./grid.js";
import { inputFile } from "./pictures.js";

/** What a column is called; a word is added where both have the same name. */
const namesOf = ([left, right]) =>
  left.model === right.model
    ? [`${left.model} (first)`, `${right.model} (second)`]
    : [left.model, right.model];

export class Beside {
  #box;
  #scale;
  #pictures = new AnswerPictures();

  /** `box` is where they are shown. */
  constructor(box) {
    this.#box = box;
  }

  /**
   * Shows two evaluations that succeeded.
   * @param {object[]} evaluations the two, with their results
   * @param {object} pair what the server computes of them
   * @param {?{model: string, benchmark: string, cases: number, ask: () => void}} offer what would make them alike
   * @param {() => void} onClose called by its button
   */
  show(evaluations, pair, offer, onClose) {
    this.#scale = evaluations[0].scale;
    const names = namesOf(evaluations);
    const title = element("h2", { tabIndex: -1 }, `${names[0]} beside ${names[1]}`);
    const close = element("button", { type: "button" }, "Close");
    close.addEventListener("click", onClose);
    const sources = evaluations.map((evaluation, i) =>
      element("li", {}, element("b", {}, names[i]), ` ${sourceOf(evaluation)}`),
    );
    this.#box.append(
      element("div", { className: "heading" }, title, close),
      element("ul", { className: "soft sources" }, ...sources),
      scroller("Scores by category", scoreTable(names, pair, this.#scale)),
      pair.unlike.length ? unlikeNote(evaluations, pair.unlike, offer) : alikeNote(names),
    );
    this.#showAnswers(evaluations, names);
    title.focus();
  }

  clear() {
    this.#pictures.clear();
    this.#box.replaceChildren();
  }

  #showAnswers(evaluations, names) {
    const rows = sharedCases(evaluations);
    if (rows.length === 0) return;
    const hasInputs = rows.some(([answer]) => answer.references.length > 0);
    const columns = ["case", ...(hasInputs ? ["input"] : []), ...names];
    const heads = columns.map((name) =>
      element("th", { scope: "col" }, element("b", {}, name)),
    );
    const table = element("table", { className: "grid" });
    setColumns(table, columns.length - 1);
    const body = element("tbody");
    table.append(element("thead", {}, element("tr", {}, ...heads)), body);
    const heading = "Answers to the same cases, those that differ most in score first";
    this.#box.append(element("h3", {}, heading), table);
    const draw = (answers) => this.#row(answers, names, hasInputs);
    this.#box.append(paged(body, rows, draw, this.#pictures));
  }

  #row(answers, names, hasInputs) {
    const [{ case: id, prompt, references }] = answers;
    const inputs = references.map((path, i) =>
      this.#pictures.frame(path, inputFile(id, i), `Input: ${prompt}`),
    );
    const name = (text) => element("b", { className: "name" }, text);
    const input = hasInputs && element("td", { className: "input" }, name("input"), ...inputs);
    const cells = answers.map((answer, i) =>
      element(
        "td",
        {},
        name(names[i]),
        this.#pictures.frame(answer.picture, `${names[i]}-${id}.png`, `${names[i]}: ${prompt}`),
        element("p", { className: "caption" }, element("strong", {}, decimal(answer.score, this.#scale))),
        element("div", { className: "remarks" }, ...remarks(answer)),
      ),
    );
    const head = element("th", { scope: "row" }, element("p", { className: "prompt" }, prompt));
    head.append(element("p", { className: "soft" }, id));
    return element("tr", { tabIndex: -1 }, head, input, ...cells);
  }
}

const sourceOf = (evaluation) => {
  const { benchmark, task, judge, progress } = evaluation;
  return `${benchmark} ${task}, ${count(progress.total, "case")} (${extentOf(evaluation)}), by ${judge}`;
};

/** Pairs of answers to a case that both have. */
function sharedCases([left, right]) {
  if (left.benchmark_digest !== right.benchmark_digest || left.task !== right.task) return [];
  const others = new Map(right.result.answers.map((answer) => [answer.case, answer]));
  const pairs = left.result.answers
    .filter((answer) => others.has(answer.case))
    .map((answer) => [answer, others.get(answer.case)]);
  return pairs.sort((a, b) => apart(b) - apart(a) || a[0].case.localeCompare(b[0].case));
}

/** How far two scores are apart; those without one come last. */
const apart = ([left, right]) =>
  left.score === null || right.score === null ? -1 : Math.abs(left.score - right.score);

function scoreTable(names, { categories, all, unlike }, scale) {
  const heads = ["category", ...names];
  if (!unlike.length) heads.push("difference");
  const line = (name, { left, right, difference }) => {
    const numbers = new Set([left, right, difference].map((mean) => mean?.counted));
    numbers.delete(undefined);
    const isEven = numbers.size === 1; // of one number of cases, which is said once
    const cells = [left, right].map((mean) => scoreCell(mean, scale, decimal, !isEven));
    if (!unlike.length) cells.push(scoreCell(difference, scale, signed, !isEven));
    const cases = isEven && casesLine([...numbers][0]);
    return element("tr", {}, element("th", { scope: "row" }, name, cases), ...cells);
  };
  const head = heads.map((text) => element("th", { scope: "col" }, text));
  return element(
    "table",
    { className: "categories pair" },
    element("thead", {}, element("tr", {}, ...head)),
    element("tbody", {}, ...Object.entries(categories).map(([name, row]) => line(name, row))),
    element("tfoot", {}, line("all", all)),
  );
}

function scoreCell(mean, scale, show, hasCases) {
  if (!mean || mean.score === null) return element("td", { className: "soft" }, "none");
  const range = element("span", { className: "soft" }, rangeOf(mean.interval, scale, show));
  const cases = hasCases && casesLine(mean.counted);
  return element("td", { className: "number" }, show(mean.score, scale), range, cases);
}

const casesLine = (number) =>
  element("span", { className: "soft cases" }, ` ${count(number, "case")}`);

const alikeNote = ([first, second]) =>
  element(
    "p",
    { className: "soft" },
    `Difference: ${first} less ${second}, case by case. Brackets: 95 % intervals over the cases; ` +
      "a difference whose interval has 0 in it may be chance.",
  );

/** Why there is no difference, and a button that would make the two alike. */
function unlikeNote(evaluations, unlike, offer) {
  const numbers = evaluations.map(({ progress }) => progress.total);
  const words = unlike.map((field) =>
    field === "cases" ? `cases (${listed(numbers.map(String))})` : field,
  );
  const text = `Not scored alike: the two differ in ${listed(words)}, so there is no difference.`;
  const note = element("div", { className: "denied unlike" }, element("p", {}, text));
  if (offer) {
    const source = unlike.includes("benchmark") ? ` of ${offer.benchmark}` : "";
    const many = `${count(offer.cases, "case")} a category${source}`;
    const button = element("button", { type: "button" }, `Score ${offer.model} on ${many}`);
    button.addEventListener("click", offer.ask);
    note.append(button);
  }
  return note;
}

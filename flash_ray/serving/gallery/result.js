// One finished evaluation: its table by category, and its answers, the worst first.

import { trying } from "./alerts.js";
import { readPicture } from "./api.js";
import { capOf, detailLines } from "./details.js";
import { element } from "./dom.js";
import { count, decimal, titleOf } from "./format.js";
import { inputFile, Pictures } from "./pictures.js";
import { Pool } from "./pool.js";

const PAGE = 24; // answers shown at a time
const READS = 4; // pictures fetched at a time

export class Result {
  #box;
  #pictures = new Pictures();
  #loading = new AbortController();

  /** `box` is where an evaluation is shown. */
  constructor(box) {
    this.#box = box;
  }

  /** Shows an evaluation that succeeded, instead of the one before; `onClose` after it is closed. */
  show(evaluation, onClose) {
    this.#clear();
    const { model, cases, seed, result } = evaluation;
    const title = element("h2", { tabIndex: -1 }, titleOf(evaluation));
    const close = element("button", { type: "button" }, "Close");
    close.addEventListener("click", () => {
      this.#clear();
      onClose();
    });
    const worst = [...result.answers].sort(
      (a, b) => rank(a) - rank(b) || a.case.localeCompare(b.case),
    );
    const brackets = result.interval ? " Brackets: 95 % interval." : "";
    const how = `${count(cases, "case")} a category, seed ${seed}.${brackets}`;
    this.#box.append(
      element("div", { className: "heading" }, title, close),
      element("p", { className: "soft" }, how),
      scroller("Scores by category", categoryTable(result)),
      element("h3", {}, "Answers, the worst first"),
    );
    this.#list(model, worst);
    title.focus();
  }

  #clear() {
    this.#loading.abort();
    this.#loading = new AbortController();
    this.#pictures.clear();
    this.#box.replaceChildren();
  }

  /** A page of answers, and a button for the next. */
  #list(model, answers) {
    const list = element("ol", { className: "answers" });
    const more = element("button", { type: "button" });
    const { signal } = this.#loading;
    let left = answers;
    const next = () => {
      const page = left.slice(0, PAGE);
      left = left.slice(PAGE);
      more.hidden = left.length === 0;
      more.textContent = `Show more of the ${left.length} others`;
      const items = page.map((answer) => answerItem(answer));
      list.append(...items);
      const frames = items.flatMap((item) => [...item.querySelectorAll(".frame")]);
      trying("pictures", () => this.#load(model, frames, signal));
      return items;
    };
    more.addEventListener("click", () => next()[0].focus());
    this.#box.append(list, more);
    next();
  }

  /** Puts pictures into the frames that have none yet. */
  #load(model, frames, signal) {
    const empty = frames.filter((frame) => frame.isConnected);
    const reads = new Pool(READS);
    const load = async (frame) => {
      const blob = await readPicture(frame.dataset.path, signal);
      signal.throwIfAborted();
      const file = `${model}-${frame.dataset.file}`;
      const { open, save } = this.#pictures.show(blob, frame.dataset.description, file);
      frame.replaceWith(element("div", {}, open, save));
    };
    return Promise.all(empty.map((frame) => reads.run(() => load(frame))));
  }
}

/** Answers without a score come after all others. */
const rank = ({ score }) => score ?? Number.MAX_VALUE;

/** A box of its own for what may be too wide; the keyboard reaches it and scrolls it. */
function scroller(name, content) {
  const box = element("div", { className: "scroll", tabIndex: 0, role: "region" }, content);
  box.setAttribute("aria-label", name);
  return box;
}

/** A row for each category; the columns are what the judge measures and says of categories. */
function categoryTable({ categories, score, interval, counted, measures }) {
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
    return line([name, casesOf(row), decimal(row.score), ...parts, ...details]);
  });
  const all = Object.values(categories).reduce((sum, row) => sum + row.cases, 0);
  const range = interval ? ` [${interval.map(decimal).join(", ")}]` : "";
  const parts = measured.map((measure) => decimal(measures[measure]));
  const total = [decimal(score) + range, ...parts, ...described.map(() => "")];
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

const spaced = (name) => name.replaceAll("_", " ");

/** How many cases there are, and how many have a score if some have none. */
const casesOf = ({ cases, counted }) =>
  counted === cases ? String(cases) : `${cases}, ${counted} judged`;

function answerItem(answer) {
  const { case: id, prompt, score, measures, picture, references } = answer;
  const frame = (path, file, description) => {
    const made = element(
      "div",
      { className: "frame" },
      element("p", { className: "note" }, "loading"),
    );
    Object.assign(made.dataset, { path, file, description });
    return made;
  };
  const inputs = references.map((path, i) => frame(path, inputFile(id, i), `Input: ${prompt}`));
  const cap = capOf(answer);
  const parts = Object.entries(measures).map(([name, value]) => `${spaced(name)} ${decimal(value)}`);
  return element(
    "li",
    { tabIndex: -1 },
    element(
      "div",
      { className: "pictures" },
      ...inputs,
      frame(picture, `${id}.png`, `Answer: ${prompt}`),
    ),
    element(
      "p",
      {},
      element("strong", {}, decimal(score)),
      element("span", { className: "soft" }, ` ${id}`),
    ),
    cap && element("p", { className: "failure" }, cap),
    element("p", { className: "prompt" }, prompt),
    ...detailLines(answer),
    parts.length > 0 && element("p", { className: "soft" }, parts.join(", ")),
  );
}

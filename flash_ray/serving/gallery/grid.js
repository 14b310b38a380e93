// The grid of a comparison: a row for each case or prompt, a column for each model.

import { capOf, detailLines } from "./details.js";
import { element } from "./dom.js";
import { count, decimal, mean, median, seconds } from "./format.js";
import { fromBase64, inputFile, Pictures } from "./pictures.js";

const MANY = 4; // models; more of them get smaller pictures

/** What is shown of one comparison; `cell(row, model)` is where a picture goes. */
export class Grid {
  #pictures = new Pictures();
  #cells = new Map();
  #heads = new Map();
  #scale;

  /** Replaces what `container` shows; `scale` is what the judge's scores are, if there is a judge. */
  constructor(container, rows, models, judge, scale) {
    this.#scale = scale;
    const hasInputs = rows.some((row) => row.inputs.length > 0);
    const table = element("table", { className: "grid" });
    table.classList.toggle("many", models.length > MANY);
    setColumns(table, models.length + Number(hasInputs));
    table.append(this.#head(models, hasInputs), this.#body(rows, models, hasInputs));
    const scores = `Scores by ${judge}: ${scale}. `;
    const times =
      "Times are the server's, without the wait in its queue; pictures that it drew as one batch " +
      "took theirs together.";
    const note = rows.some((row) => row.benchmark) ? scores + times : times;
    container.replaceChildren(table, element("p", { className: "soft" }, note));
  }

  cell(row, model) {
    return this.#cells.get(row).get(model);
  }

  /**
   * Says in a model's head what its answers so far score, and the seconds that they took.
   * @param {number[]} scores of the rows that count, of so many rows
   */
  summarize(model, scores, rows, times) {
    const parts = [];
    const extent = scores.length < rows ? ` of ${count(scores.length, "case")}` : "";
    if (scores.length) parts.push(`mean ${decimal(mean(scores), this.#scale)}${extent}`);
    if (times.length) parts.push(`median ${seconds(median(times))}`);
    this.#heads.get(model).textContent = parts.join(", ");
  }

  /** To be called before another grid takes the place. */
  clear() {
    this.#pictures.clear();
  }

  #head(models, hasInputs) {
    const columns = models.map((model) => {
      this.#heads.set(model, element("span"));
      return element("th", { scope: "col" }, element("b", {}, model.id), this.#heads.get(model));
    });
    const input = hasInputs && element("th", { scope: "col" }, element("b", {}, "input"));
    const first = element("th", { scope: "col" }, element("b", {}, "prompt"));
    return element("thead", {}, element("tr", {}, first, input, ...columns));
  }

  #body(rows, models, hasInputs) {
    const lines = rows.map((row) => {
      const cells = models.map((model) => new Cell(this.#pictures, row, model, this.#scale));
      this.#cells.set(row, new Map(models.map((model, i) => [model, cells[i]])));
      const head = element(
        "th",
        { scope: "row" },
        element("p", { className: "prompt" }, row.prompt),
      );
      head.append(element("p", { className: "soft" }, `${row.id}, seed ${row.seed}`));
      return element("tr", {}, head, hasInputs && this.#input(row), ...cells.map((c) => c.box));
    });
    return element("tbody", {}, ...lines);
  }

  #input(row) {
    const box = element("td", { className: "input" }, element("b", { className: "name" }, "input"));
    row.inputs.forEach((input, i) => {
      const file = input.name ?? inputFile(row.id, i); // an upload has its own name
      const { open, save } = this.#pictures.show(input, `Input: ${row.prompt}`, file);
      box.append(open, element("div", { className: "more" }, save));
    });
    return box;
  }
}

/** One model's answer to one row. */
class Cell {
  #pictures;
  #row;
  #model;
  #scale;
  #note = element("p", { className: "note" });
  #frame = element("div", { className: "frame" }, this.#note);
  #score = element("strong");
  #caption = element("p", { className: "caption" }, this.#score);
  #measures = element("dl");
  #making = element("dl");

  constructor(pictures, row, model, scale) {
    this.#scale = scale;
    this.#pictures = pictures;
    this.#row = row;
    this.#model = model;
    this.box = element("td", {}, element("b", { className: "name" }, model.id), this.#frame);
  }

  /** What there is instead of a picture, or is wrong with it. */
  say(text, isFailure = false) {
    this.#note.textContent = text;
    this.#note.classList.toggle("failure", isFailure);
  }

  showPicture({ b64, seed, timings }) {
    const { id, prompt } = this.#row;
    const file = `${this.#model.id}-${id}.png`;
    const description = `${this.#model.id}: ${prompt}`;
    const { open, save } = this.#pictures.show(fromBase64(b64), description, file);
    const time = element("span", { className: "time" }, seconds(drawingTime(timings)));
    const waited = element("span", { className: "soft" }, `+ ${seconds(timings.queue)} queued`);
    this.#caption.append(time, timings.queue >= 0.005 ? waited : "");
    const summary = element("summary", {}, "details");
    summary.setAttribute("aria-label", `Details of ${this.#model.id}, ${id}`);
    const details = element("details", {}, summary, this.#measures, this.#making);
    state(this.#making, "seed", String(seed));
    for (const [part, value] of Object.entries(timings)) state(this.#making, part, seconds(value));
    const more = element("div", { className: "more" }, details, save);
    this.#frame.replaceWith(open, this.#caption, this.#note, more);
  }

  showScore(judged) {
    this.#score.textContent = decimal(judged.score, this.#scale);
    this.say(capOf(judged), true);
    for (const [name, value] of Object.entries(judged.measures)) {
      state(this.#measures, name, decimal(value));
    }
    this.#measures.before(...detailLines(judged));
  }
}

/** Lets pictures take the width that so many columns leave. */
export function setColumns(table, number) {
  table.style.setProperty("--columns", number);
  table.classList.toggle("three", number === 3);
}

function state(list, name, value) {
  list.append(element("div", {}, element("dt", {}, name), element("dd", {}, value)));
}

/** Seconds that the server worked on a picture, without those it let it wait. */
export const drawingTime = (timings) => timings.total - timings.queue;

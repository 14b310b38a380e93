// Fills a grid: asks each model for each row's picture, has the judge score it, keeps count.

import { ApiError, draw, judge } from "./api.js";
import { drawingTime } from "./grid.js";
import { Pool } from "./pool.js";

const DRAWN = 4; // at a time
const JUDGED = 2; // at a time; a judge may take longer than a model, so the models do not wait

export class Comparison {
  #grid;
  #cells;

  /** Rows are those of CompareForm, models those of the server. */
  constructor(grid, rows, models) {
    this.#grid = grid;
    this.#cells = rows.flatMap((row) =>
      models.map((model) => ({
        row,
        model,
        view: grid.cell(row, model),
        answer: null,
        judged: null,
        failed: false,
      })),
    );
  }

  /** How far it is; `missing` are cells without a picture or its score. */
  get progress() {
    const number = (test) => this.#cells.filter(test).length;
    return {
      total: this.#cells.length,
      drawn: number((cell) => cell.answer),
      judged: number((cell) => cell.judged),
      failed: number((cell) => cell.failed),
      missing: number(isMissing),
    };
  }

  /**
   * Makes what is missing. A request that fails by itself is told in its cell; an error that all
   * would share ends the rest and is thrown.
   * @param {AbortSignal} signal stops it
   * @param {() => void} onChange after each answer
   */
  async complete(signal, onChange) {
    const failure = new AbortController();
    const end = AbortSignal.any([signal, failure.signal]);
    const [drawing, judging] = [new Pool(DRAWN), new Pool(JUDGED)];
    const fill = async (cell) => {
      cell.failed = false;
      try {
        if (!cell.answer) await drawing.run(() => this.#draw(cell, end));
        onChange();
        if (cell.row.benchmark) await judging.run(() => this.#judge(cell, end));
      } catch (error) {
        if (end.aborted) return;
        if (!(error instanceof ApiError) || error.final) return failure.abort(error);
        cell.failed = true;
        cell.view.say(error.message, true);
      }
      onChange();
    };
    const missing = this.#cells.filter(isMissing);
    for (const { view, answer } of missing) view.say(answer ? "to be judged" : "waiting");
    await Promise.all(missing.map(fill));
    for (const { view, answer, failed } of this.#cells.filter(isMissing)) {
      if (!failed) view.say(answer ? "not judged" : "not drawn");
    }
    end.throwIfAborted();
  }

  async #draw(cell, signal) {
    signal.throwIfAborted();
    const { row, model, view } = cell;
    const { prompt, seed, size, inputs: images } = row;
    view.say("drawing");
    const request = { model: model.id, prompt, seed, size, images };
    cell.answer = await draw(request, signal, busy(view, "drawing"));
    view.showPicture(cell.answer);
    view.say(row.benchmark ? "to be judged" : "");
    this.#summarize();
  }

  async #judge(cell, signal) {
    signal.throwIfAborted();
    const { row, answer, view } = cell;
    view.say("judging");
    cell.judged = await judge(row, answer.b64, signal, busy(view, "judging"));
    view.showScore(cell.judged);
    this.#summarize();
  }

  /** Means stand beside each other: they are over the rows that every model has a score on. */
  #summarize() {
    const unscored = this.#cells.filter((cell) => scoreOf(cell) === null);
    const without = new Set(unscored.map(({ row }) => row));
    for (const [model, cells] of Map.groupBy(this.#cells, (cell) => cell.model)) {
      const scores = cells.filter(({ row }) => !without.has(row)).map(scoreOf);
      const drawn = cells.filter((cell) => cell.answer);
      const times = drawn.map((cell) => drawingTime(cell.answer.timings));
      this.#grid.summarize(model, scores, cells.length, times);
    }
  }
}

const scoreOf = ({ judged }) => judged?.score ?? null;

const isMissing = ({ answer, row, judged }) => !answer || (row.benchmark !== null && !judged);

/** Says how long a busy server makes us wait, then again what is being done. */
const busy = (view, doing) => (left) => {
  view.say(left ? `server busy, again in ${left} s` : doing);
};

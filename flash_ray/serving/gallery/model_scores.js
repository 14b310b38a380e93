// What models score, in their list: scores of equal cases only, and an offer to score the others.

import { trying } from "./alerts.js";
import { element } from "./dom.js";
import { count, decimal, listed, withInterval } from "./format.js";
import { isOf, missingScores, scoreSets, underWay } from "./scoring.js";

export class ModelScores {
  #models;
  #scales;
  #benchmark = null;
  #most;
  #chosen = [];
  #evaluations = [];
  #ask = null;
  #lines = new Map();
  #note = element("p", { className: "soft" });
  #button = element("button", { type: "button" });
  /** What stands under the list. */
  box = element("div", { className: "scores" }, this.#note, this.#button);

  /**
   * @param {object} scales what the scores of each judge are
   * @param {number} most how many cases an evaluation may have
   */
  constructor(models, scales, most) {
    this.#models = models;
    this.#scales = scales;
    this.#most = most;
    this.#button.addEventListener("click", () => {
      trying("scoring", () => this.#ask(this.#offered()));
    });
  }

  /** The line of a model in the list. */
  line(model) {
    const line = element("span", { className: "soft" });
    this.#lines.set(model, line);
    return line;
  }

  /** Says which models are chosen, and the benchmark whose scores are shown. */
  choose(models, benchmark) {
    this.#chosen = models;
    this.#benchmark = benchmark;
    this.#update();
  }

  /** Takes in what the server has evaluated. */
  listen(evaluations) {
    this.#evaluations = evaluations;
    this.#update();
  }

  /** Offers to start evaluations, by a function that takes their requests. */
  offer(ask) {
    this.#ask = ask;
    this.#update();
  }

  /** Whose scores are shown: the first judge of the benchmark; undefined if nobody judges it. */
  get #judge() {
    return Object.values(this.#benchmark.judges).flat()[0];
  }

  get #scale() {
    return this.#scales[this.#judge];
  }

  #sets() {
    const [models, chosen, evaluations] = [this.#models, this.#chosen, this.#evaluations];
    return scoreSets(models, chosen, evaluations, this.#benchmark, this.#judge);
  }

  /** What the button would ask for: nothing that is under way, or that the server does not take. */
  #offered() {
    const sets = this.#sets();
    if (sets.cases === null || sets.cases > this.#most) return [];
    const missing = missingScores(sets, this.#chosen, this.#benchmark, this.#judge);
    return missing.filter((request) => !this.#underWay(request));
  }

  #underWay(request) {
    const model = this.#models.find(({ id }) => id === request.model);
    return underWay(request, model, this.#evaluations, this.#benchmark);
  }

  #update() {
    const sets = this.#sets();
    for (const [model, line] of this.#lines) line.textContent = this.#lineOf(model, sets);
    const offered = this.#ask ? this.#offered() : [];
    const names = [...new Set(offered.map(({ model }) => model))];
    const { cases } = sets;
    this.#note.textContent =
      cases === null
        ? ""
        : `Scores by ${this.#judge} (${this.#scale}), on the same cases for all: the first ${cases} of each ` +
          `category of ${this.#benchmark.id}.`;
    this.#button.hidden = offered.length === 0;
    const pictures = offered.reduce((sum, { task }) => sum + this.#categories(task) * cases, 0);
    this.#button.textContent =
      `Score ${names.length > 2 ? count(names.length, "model") : listed(names)} on them: ` +
      count(pictures, "picture");
    this.box.hidden = cases === null;
  }

  #categories(task) {
    return this.#benchmark.tasks[task].length;
  }

  /** The base in as many evaluations, where publishing scored it on the same cases. */
  #beside({ scores }, cases) {
    if (!scores?.baselines.untrained || !isOf(scores, this.#benchmark)) return "";
    if (scores.judge !== this.#judge || scores.cases_per_category !== cases) return "";
    const tasks = Object.keys(scores.baselines.untrained.tasks);
    return `; untrained: ${tasks.map((task) => baseOf(task, scores, this.#scale)).join(", ")}`;
  }

  #lineOf(model, { cases, sets }) {
    const scores = sets.get(cases)?.get(model.id) ?? {};
    const tasks = Object.keys(this.#benchmark.tasks);
    const parts = tasks.filter((task) => scores[task]).map((task) => `${task} ${shown(scores[task], this.#scale)}`);
    const running = tasks
      .filter((task) => !scores[task])
      .map((task) => this.#underWay({ model: model.id, task, cases, judge: this.#judge }))
      .filter(Boolean)
      .map(({ task, progress }) => `${task} being scored, ${progress.done} of ${progress.total}`);
    const beside = this.#beside(model, cases);
    if (parts.length || running.length) return [...parts, ...running].join(", ") + beside;
    const others = [...sets].filter(([, set]) => set.has(model.id)).map(([number]) => number);
    if (others.length) {
      const numbers = listed(others.sort((a, b) => a - b).map(String));
      return `scored on ${numbers} ${others.at(-1) === 1 ? "case" : "cases"} of each category only`;
    }
    if (!model.scores) return "not scored";
    const { judge, benchmark } = model.scores;
    return isOf(model.scores, this.#benchmark)
      ? `scored by ${judge} only`
      : `scored on ${benchmark} only, by ${judge}`;
  }
}

/** What the untrained base scores on a task, and the share of its gap to the teacher that is closed. */
function baseOf(task, { baselines, gap_closed: closed }, scale) {
  const gap = closed[task] ? `, ${Math.round(100 * closed[task].share)} % of the gap closed` : "";
  return `${task} ${decimal(baselines.untrained.tasks[task], scale)}${gap}`;
}

const shown = (score, scale) =>
  score.score === null ? decimal(null) : withInterval(score, scale);

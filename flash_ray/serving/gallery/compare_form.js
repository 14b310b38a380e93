// The form of a comparison: which models, which cases or prompts, and what rows follow from it.

import { listCases, readPicture } from "./api.js";
import { BenchmarkChoice, judgedTasks } from "./benchmark_choice.js";
import { bound, byId, element, fillSelect } from "./dom.js";
import { count, mebibytes } from "./format.js";
import { ModelScores } from "./model_scores.js";
import { Pictures } from "./pictures.js";
import { Pool } from "./pool.js";

const READS = 4; // input pictures fetched at a time
const CHOSEN = 2; // models at first
const SEEDS = 2 ** 31;

/**
 * @typedef {object} Row one prompt for all models
 * @property {string} id of the case, or "prompt-1"
 * @property {string} prompt
 * @property {number} seed of the noise, the same for all models
 * @property {string} size of the answers, WIDTHxHEIGHT
 * @property {?string} benchmark that the case is of; null: nobody judges the answers
 * @property {?string} task of the case
 * @property {Blob[]} inputs the pictures to edit
 */

export class CompareForm {
  #models;
  #choice = null;
  #limits;
  #preview = new Pictures();

  /** What the models score; null if nothing can be scored. */
  scores;

  /**
   * @param {object[]} benchmarks whose cases can be drawn, if there are any
   * @param {object} limits the server's, of one request
   * @param {object} scales what the scores of each judge are
   */
  constructor(models, benchmarks, limits, scales) {
    this.#models = models;
    this.#limits = limits;
    const isScored = benchmarks.some((benchmark) => judgedTasks(benchmark).length > 0);
    this.scores = isScored ? new ModelScores(models, scales, limits.cases) : null;
    bound(byId("per-category"), limits.cases);
    this.#listModels();
    if (benchmarks.length) this.#offer(benchmarks);
    byId("picture").addEventListener("change", () => this.#showPicture());
    byId("new-seed").addEventListener("click", () => {
      byId("seed").value = Math.floor(Math.random() * SEEDS);
    });
    for (const event of ["input", "change"]) {
      byId("compare-form").addEventListener(event, () => this.#update());
    }
    this.#update();
  }

  /** Whether its fields can be used. */
  offer(isOffered) {
    for (const part of byId("compare-form").querySelectorAll(":scope > fieldset")) {
      part.disabled = !isOffered;
    }
  }

  /** The chosen models, in the order of the list. */
  get models() {
    return this.#models.filter((model) => this.#chosenModels().includes(model.id));
  }

  /** Who judges the answers; null if nobody does. */
  get judge() {
    return this.#isOwn() ? null : (this.#choice.judges[0] ?? null);
  }

  /** @returns {Promise<Row[]>} after the cases of a benchmark came from the server */
  rows(signal) {
    return this.#isOwn() ? Promise.resolve(this.#ownRows()) : this.#caseRows(signal);
  }

  #ownRows() {
    const inputs = [...byId("picture").files];
    const shared = { seed: byId("seed").valueAsNumber, size: byId("size").value, inputs };
    return this.#prompts().map((prompt, i) => ({
      id: `prompt-${i + 1}`,
      prompt,
      benchmark: null,
      task: null,
      ...shared,
    }));
  }

  async #caseRows(signal) {
    const { benchmark: { id: from }, task } = this.#choice;
    const benchmark = this.judge && from;
    const categories = this.#chosenCategories();
    const cases = await listCases(from, task, byId("per-category").valueAsNumber, signal);
    const reads = new Pool(READS);
    const rows = cases
      .filter(({ category }) => categories.includes(category))
      .map(async ({ id, prompt, seed, size, references }) => {
        const inputs = references.map((path) => reads.run(() => readPicture(path, signal)));
        return { id, prompt, seed, size, benchmark, task, inputs: await Promise.all(inputs) };
      });
    return Promise.all(rows);
  }

  #isOwn() {
    return byId("compare-form").elements.source.value === "own";
  }

  #chosenModels() {
    return checked(byId("models"));
  }

  #chosenCategories() {
    return checked(byId("categories"));
  }

  #prompts() {
    return byId("prompts")
      .value.split("\n")
      .map((line) => line.trim())
      .filter(Boolean);
  }

  #listModels() {
    if (this.#models.length === 0) {
      byId("models").replaceChildren(element("p", {}, "The server has no models."));
      return;
    }
    const lines = this.#models.map((model, i) => {
      const box = element("input", { type: "checkbox", value: model.id, checked: i < CHOSEN });
      const facts = element("span", { className: "soft" }, nature(model));
      const scores = this.scores && this.scores.line(model);
      const text = element("span", {}, element("b", {}, model.id), facts, scores);
      return element("label", { className: "model" }, box, text);
    });
    byId("models").replaceChildren(...lines);
    byId("no-students").hidden = this.#models.some(({ kind }) => kind === "student");
    if (this.scores) byId("models").after(this.scores.box);
  }

  /** Shows what there is of the benchmarks, and makes their cases the first choice. */
  #offer(benchmarks) {
    byId("sources").hidden = false;
    byId("compare-form").elements.source.value = "benchmark";
    const tasksOf = ({ tasks }) => Object.keys(tasks);
    const onChange = (choice) => this.#listCategories(choice.categories);
    this.#choice = new BenchmarkChoice("", benchmarks, tasksOf, onChange);
  }

  #listCategories(categories) {
    const boxes = categories.map((name) =>
      element(
        "label",
        {},
        element("input", { type: "checkbox", value: name, checked: true }),
        ` ${name}`,
      ),
    );
    byId("categories").replaceChildren(...boxes);
  }

  #showPicture() {
    const [file] = byId("picture").files;
    this.#preview.clear();
    byId("picture-preview").replaceChildren();
    byId("picture-preview").hidden = !file;
    if (!file) return;
    const remove = element("button", { type: "button", className: "quiet" }, "Remove the picture");
    remove.addEventListener("click", () => {
      byId("picture").value = "";
      this.#showPicture();
      this.#update();
      byId("picture").focus();
    });
    const { open } = this.#preview.show(file, "The picture to edit", file.name);
    byId("picture-preview").append(open, remove);
  }

  /** Shows the chosen source only, and says what is missing or how much will be drawn. */
  #update() {
    const own = this.#isOwn();
    for (const [id, isShown] of [
      ["own", own],
      ["from-benchmark", !own],
    ]) {
      byId(id).hidden = !isShown;
      byId(id).disabled = !isShown; // hidden fields must not keep the form from being sent
    }
    const models = this.models;
    this.scores?.choose(models, this.#choice.benchmark);
    byId("judge").textContent = this.judge ?? "nobody";
    fillSelect(byId("size"), commonSizes(models.length ? models : this.#models));
    const model = byId("models").querySelector("input");
    model?.setCustomValidity(models.length ? "" : "Choose a model.");
    const categories = this.#chosenCategories();
    const category = byId("categories").querySelector("input");
    category?.setCustomValidity(categories.length ? "" : "Choose a category.");
    const prompts = this.#prompts();
    byId("prompts").setCustomValidity(problemOfPrompts(prompts, this.#limits.prompt));
    const [picture] = byId("picture").files;
    byId("picture").setCustomValidity(problemOfPicture(picture, this.#limits.image_bytes));
    const size = byId("size");
    size.setCustomValidity(size.value ? "" : "These models have no size in common.");
    const cases = categories.length * (byId("per-category").valueAsNumber || 0);
    const pictures = models.length * (own ? prompts.length : cases);
    byId("generate").textContent = pictures ? `Generate ${count(pictures, "picture")}` : "Generate";
  }
}

function checked(group) {
  return [...group.querySelectorAll("input:checked")].map((box) => box.value);
}

// What a browser says at a field that cannot be sent as it is; "" if it can.

function problemOfPrompts(prompts, most) {
  if (prompts.length === 0) return "Write a prompt.";
  const lengths = prompts.map((prompt) => [...prompt].length); // in characters, as the server
  const long = lengths.findIndex((length) => length > most);
  if (long === -1) return "";
  return `Prompt ${long + 1} has ${lengths[long]} characters; the server takes up to ${most}.`;
}

function problemOfPicture(file, most) {
  if (!file || file.size <= most) return "";
  return `The picture has ${mebibytes(file.size)}; the server takes up to ${mebibytes(most)}.`;
}

function commonSizes(models) {
  const [first, ...others] = models.map((model) => model.sizes);
  return (first ?? []).filter((size) => others.every((sizes) => sizes.includes(size)));
}

function nature({ kind, steps, evaluations, guidance, base }) {
  const parts = [`${kind}, ${count(steps, "step")}`, count(evaluations, "evaluation")];
  if (guidance !== 1) parts.push(`guidance ${guidance}`);
  return [...parts, `base ${base}`].join(", ");
}

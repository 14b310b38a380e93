// Which benchmark and task a form is about; a select that has one option is not shown.

import { byId, fillSelect } from "./dom.js";

export class BenchmarkChoice {
  #tasksOf;
  #name;
  #task;

  /** The chosen one. */
  benchmark;

  /**
   * @param {string} prefix of the ids of the form's fields
   * @param {object[]} benchmarks the server's, at least one
   * @param {(benchmark: object) => string[]} tasksOf the tasks of a benchmark that are offered
   * @param {(choice: BenchmarkChoice) => void} onChange called at first too, and before the form
   *   hears of a change
   */
  constructor(prefix, benchmarks, tasksOf, onChange) {
    this.#tasksOf = tasksOf;
    this.#name = byId(`${prefix}benchmark-name`);
    this.#task = byId(`${prefix}task`);
    const select = byId(`${prefix}benchmark`);
    const choose = () => {
      this.#choose(benchmarks.find(({ id }) => id === select.value));
      onChange(this);
    };
    fillChoice(
      select,
      benchmarks.map(({ id }) => id),
    );
    select.addEventListener("change", choose);
    this.#task.addEventListener("change", () => onChange(this));
    choose();
  }

  get task() {
    return this.#task.value;
  }

  get categories() {
    return this.benchmark.tasks[this.task];
  }

  /** Those that judge such cases, the default first. */
  get judges() {
    return this.benchmark.judges[this.task];
  }

  #choose(benchmark) {
    this.benchmark = benchmark;
    this.#name.textContent = benchmark.id;
    fillChoice(this.#task, this.#tasksOf(benchmark));
  }
}

/** The tasks of a benchmark that can be scored. */
export const judgedTasks = ({ judges }) =>
  Object.keys(judges).filter((task) => judges[task].length > 0);

/** Gives a select its options; it is shown if there is a choice. */
export function fillChoice(select, values) {
  fillSelect(select, values);
  select.closest("label").hidden = values.length === 1;
}

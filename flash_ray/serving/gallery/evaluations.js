// The part of the page that evaluates: starts evaluations, lists them, and asks how they get on.

import { permit } from "./access.js";
import { trying } from "./alerts.js";
import {
  cancelEvaluation,
  listEvaluations,
  PAGE,
  readEvaluation,
  startEvaluation,
} from "./api.js";
import { bound, byId, element, fillSelect } from "./dom.js";
import { count, titleOf, workOf } from "./format.js";
import { Result } from "./result.js";

const POLL_MS = 2000;

const isActive = ({ status }) => status === "queued" || status === "running";

/** Makes the part work, once the server has said who we are, which models and benchmark there are. */
export function setUpEvaluations({ role, limits, judges }, models, benchmark) {
  const mayStart = permit(byId("evaluate-denied"), role, "generate", "Evaluating a model");
  const mayCancel = permit(byId("cancel-denied"), role, "admin", "Cancelling an evaluation");
  const result = new Result(byId("evaluation"));
  const list = byId("evaluation-list");
  const items = new Map();
  let wanted = PAGE; // how many are listed
  let since = Infinity; // those from then on are listed too
  let polls = 0;
  let timer = null;

  /** Reads the list, and again while something in it changes. */
  async function poll() {
    clearTimeout(timer);
    polls += 1;
    const number = polls;
    const { evaluations, hasOlder } = await listEvaluations(wanted, since);
    if (number !== polls) return; // a later call will know more
    const listed = new Set(evaluations.map(({ id }) => id));
    for (const id of items.keys()) if (!listed.has(id)) drop(id);
    evaluations.forEach(show);
    byId("older").hidden = !hasOlder;
    byId("cancel-denied").hidden = mayCancel || !evaluations.some(isActive);
    if (evaluations.some(isActive)) timer = setTimeout(() => trying("evaluations", poll), POLL_MS);
  }

  /** Shows an evaluation at its place in the list; those before it are there already. */
  function show(evaluation, index) {
    let item = items.get(evaluation.id);
    if (!item) {
      item = new Item(evaluation, open, mayCancel && cancel);
      items.set(evaluation.id, item);
      list.insertBefore(item.box, list.children[index] ?? null);
    } else if (isActive(item.evaluation) && !isActive(evaluation)) {
      say(evaluation);
    }
    item.update(evaluation);
  }

  function drop(id) {
    items.get(id).box.remove();
    items.delete(id);
  }

  async function start() {
    const evaluation = await startEvaluation({
      model: byId("evaluation-model").value,
      benchmark: benchmark.id,
      task: byId("evaluation-task").value,
      cases: byId("evaluation-cases").valueAsNumber,
      seed: byId("evaluation-seed").valueAsNumber,
      judge: byId("evaluation-judge").value,
    });
    say(evaluation);
    since = Math.min(since, evaluation.created); // it may be an old one
    await trying("evaluations", poll);
  }

  async function showOlder() {
    const last = list.lastElementChild;
    wanted = items.size + PAGE;
    await poll();
    last.nextElementSibling?.focus(); // the button may be gone
  }

  function open(id) {
    return trying("evaluation", async () => {
      result.show(await readEvaluation(id), () => items.get(id)?.box.focus());
    });
  }

  function cancel(id) {
    return trying("evaluation", async () => {
      await cancelEvaluation(id);
      await trying("evaluations", poll);
    });
  }

  fillSelect(
    byId("evaluation-model"),
    models.map((model) => model.id),
  );
  const tasks = Object.keys(benchmark.tasks);
  byId("evaluation-benchmark").textContent = benchmark.id;
  fillSelect(byId("evaluation-task"), tasks);
  byId("evaluation-task").closest("label").hidden = tasks.length === 1;
  fillSelect(byId("evaluation-judge"), judges);
  byId("evaluation-judge").closest("label").hidden = judges.length === 1;
  byId("older").addEventListener("click", () => trying("evaluations", showOlder));
  byId("evaluation-form").addEventListener("submit", (event) => {
    event.preventDefault();
    trying("evaluation", start);
  });
  bound(byId("evaluation-cases"), limits.cases);
  byId("evaluation-form").querySelector("fieldset").disabled = !mayStart;
  byId("evaluate").disabled = models.length === 0;
  trying("evaluations", poll);
}

function say(evaluation) {
  byId("evaluations-status").textContent = `${titleOf(evaluation)}: ${evaluation.status}.`;
}

/** One evaluation in the list; updated in place, so that the keyboard's focus stays. */
class Item {
  #progress = element("progress");
  #state = element("span", { className: "state" });
  #error = element("p", { className: "failure" });
  #open = element("button", { type: "button" }, "Open");
  #cancel = element("button", { type: "button" }, "Cancel");

  /** `cancel` is false if the caller may not. */
  constructor(evaluation, open, cancel) {
    const { id, model, cases, seed, created } = evaluation;
    const title = titleOf(evaluation);
    const how = `${count(cases, "case")} a category, seed ${seed}`;
    this.#progress.setAttribute("aria-label", `Answers of ${title}`);
    this.#open.setAttribute("aria-label", `Open ${title}, ${how}`);
    this.#cancel.setAttribute("aria-label", `Cancel ${title}, ${how}`);
    this.#open.addEventListener("click", () => open(id));
    this.#cancel.setAttribute("aria-describedby", "cancel-denied");
    this.#cancel.disabled = !cancel;
    this.#cancel.addEventListener("click", () => cancel(id));
    const when = new Date(created * 1000).toLocaleString(undefined, {
      dateStyle: "medium",
      timeStyle: "short",
    });
    const name = element("p", { className: "title" }, element("b", {}, model));
    name.append(` ${workOf(evaluation)}`);
    name.append(element("span", { className: "soft" }, `${how}, ${when}`));
    this.box = element("li", { tabIndex: -1 }, name, this.#progress, this.#state);
    this.box.append(this.#open, this.#cancel, this.#error);
  }

  update(evaluation) {
    const { status, progress, error } = evaluation;
    const focused = document.activeElement;
    this.evaluation = evaluation;
    this.#progress.max = Math.max(progress.total, 1);
    this.#progress.value = progress.done;
    this.#state.textContent = `${status}, ${progress.done} of ${progress.total}`;
    this.#error.textContent = error ?? "";
    this.#open.hidden = status !== "succeeded";
    this.#cancel.hidden = !isActive(evaluation);
    // The button that was pressed is gone: the keyboard goes on at its place.
    if (focused.hidden && this.box.contains(focused)) this.box.focus();
  }
}

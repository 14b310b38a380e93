// The part of the page that evaluates: starts evaluations, lists them, and asks how they get on.

import { permit } from "./access.js";
import { trying } from "./alerts.js";
import { cancelEvaluation, listEvaluations, readEvaluation, startEvaluation } from "./api.js";
import { bound, byId, element, fillSelect } from "./dom.js";
import { count } from "./format.js";
import { Result } from "./result.js";

const POLL_MS = 2000;

const isActive = ({ status }) => status === "queued" || status === "running";
const titleOf = ({ model, bench }) => `${model} on ${bench}`;

/** Makes the part work, once the server has said who we are, which models and benches there are. */
export function setUpEvaluations({ role, limits }, models, benches) {
  const mayStart = permit(byId("evaluate-denied"), role, "generate", "Evaluating a model");
  const mayCancel = permit(byId("cancel-denied"), role, "admin", "Cancelling an evaluation");
  const result = new Result(byId("evaluation"));
  const items = new Map();
  let timer = null;

  /** Reads the list, and again while something in it changes. */
  async function poll() {
    clearTimeout(timer);
    const before = [...items.keys()];
    const evaluations = await listEvaluations();
    evaluations.sort((a, b) => a.created - b.created).forEach(show);
    const listed = new Set(evaluations.map(({ id }) => id));
    for (const id of before) if (!listed.has(id)) drop(id);
    byId("cancel-denied").hidden = mayCancel || !evaluations.some(isActive);
    clearTimeout(timer); // of another call, that ended meanwhile
    if (evaluations.some(isActive)) timer = setTimeout(() => trying("evaluations", poll), POLL_MS);
  }

  function show(evaluation) {
    let item = items.get(evaluation.id);
    if (!item) {
      item = new Item(evaluation, open, mayCancel && cancel);
      items.set(evaluation.id, item);
      byId("evaluation-list").prepend(item.box);
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
      bench: byId("evaluation-bench").value,
      cases: byId("evaluation-cases").valueAsNumber,
      seed: byId("evaluation-seed").valueAsNumber,
    });
    say(evaluation);
    show(evaluation);
    await trying("evaluations", poll);
  }

  function open(id) {
    return trying("evaluation", async () => {
      result.show(await readEvaluation(id), () => items.get(id)?.box.focus());
    });
  }

  function cancel(id) {
    return trying("evaluation", async () => show(await cancelEvaluation(id)));
  }

  fillSelect(
    byId("evaluation-model"),
    models.map((model) => model.id),
  );
  fillSelect(
    byId("evaluation-bench"),
    benches.map((bench) => bench.id),
  );
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
    const { id, bench, model, cases, seed, created } = evaluation;
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
    const name = element("p", { className: "title" }, element("b", {}, model), ` on ${bench}`);
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

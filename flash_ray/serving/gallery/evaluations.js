// The part of the page that evaluates: starts evaluations, lists them, and asks how they get on.

import { permit } from "./access.js";
import { trying } from "./alerts.js";
import {
  cancelEvaluation,
  listEvaluations,
  PAGE,
  readEvaluation,
  readPair,
  startEvaluation,
} from "./api.js";
import { BenchmarkChoice, fillChoice, judgedTasks } from "./benchmark_choice.js";
import { Beside } from "./beside.js";
import { bound, byId, fillSelect } from "./dom.js";
import { isActive, Item } from "./evaluation_item.js";
import { titleOf } from "./format.js";
import { Result } from "./result.js";
import { likeness } from "./scoring.js";

const POLL_MS = 2000;

/**
 * Makes the part work, once the server has said who we are, which models and benchmarks there are.
 * @param {object[]} benchmarks at least one, each with a task that can be scored
 * @param {(evaluations: object[]) => void} onList told what is listed, whenever it was read
 * @returns {(requests: object[]) => Promise} starts evaluations
 */
export function setUpEvaluations({ role, limits }, models, benchmarks, onList) {
  const mayStart = permit(byId("evaluate-denied"), role, "generate", "Evaluating a model");
  const mayCancel = permit(byId("cancel-denied"), role, "admin", "Cancelling an evaluation");
  const views = { one: new Result(byId("evaluation")), two: new Beside(byId("evaluation")) };
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
    byId("no-evaluations").hidden = evaluations.length > 0;
    byId("cancel-denied").hidden = mayCancel || !evaluations.some(isActive);
    countChosen();
    onList(evaluations);
    if (evaluations.some(isActive)) timer = setTimeout(() => trying("evaluations", poll), POLL_MS);
  }

  /** Shows an evaluation at its place in the list; those before it are there already. */
  function show(evaluation, index) {
    let item = items.get(evaluation.id);
    if (!item) {
      item = new Item(evaluation, { open, cancel: mayCancel && cancel, onChoice: countChosen });
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

  async function ask(requests) {
    for (const request of requests) {
      const evaluation = await startEvaluation(request);
      say(evaluation);
      since = Math.min(since, evaluation.created); // it may be an old one
    }
    await trying("evaluations", poll);
  }

  const start = () =>
    ask([
      {
        model: byId("evaluation-model").value,
        benchmark: byId("evaluation-benchmark").value,
        task: byId("evaluation-task").value,
        cases: byId("evaluation-cases").valueAsNumber,
        seed: byId("evaluation-seed").valueAsNumber,
        judge: byId("evaluation-judge").value,
      },
    ]);

  async function showOlder() {
    const last = list.lastElementChild;
    wanted = items.size + PAGE;
    await poll();
    last.nextElementSibling?.focus(); // the button may be gone
  }

  function clear() {
    Object.values(views).forEach((view) => view.clear());
  }

  function open(id) {
    return trying("evaluation", async () => {
      const evaluation = await readEvaluation(id);
      clear();
      views.one.show(evaluation, () => {
        clear();
        items.get(id)?.box.focus();
      });
    });
  }

  /** Those that are chosen, in the order of the list. */
  const chosen = () =>
    [...items.values()]
      .filter((item) => item.isChosen)
      .sort((a, b) => (precedes(a.box, b.box) ? -1 : 1));

  /** Says how many are chosen; two can be laid side by side. */
  function countChosen() {
    const number = chosen().length;
    byId("beside").disabled = number !== 2;
    byId("chosen").textContent = number === 2 ? "" : `${number} of 2 chosen`;
    byId("choosing").hidden = ![...items.values()].some(({ isOffered }) => isOffered);
  }

  async function layBeside() {
    const ids = chosen().map(({ evaluation }) => evaluation.id);
    const [pair, ...both] = await Promise.all([readPair(...ids), ...ids.map(readEvaluation)]);
    const request = mayStart && likeness(both, { models, benchmarks, most: limits.cases });
    const offer = request && {
      ...request,
      ask: () => trying("evaluation", () => ask([request])),
    };
    clear();
    views.two.show(both, pair, offer, () => {
      clear();
      byId("beside").focus();
    });
  }

  function cancel(id) {
    return trying("evaluation", async () => {
      await cancelEvaluation(id);
      await trying("evaluations", poll);
    });
  }

  fillForm(models, benchmarks);
  byId("older").addEventListener("click", () => trying("evaluations", showOlder));
  byId("beside").addEventListener("click", () => trying("evaluation", layBeside));
  byId("evaluation-form").addEventListener("submit", (event) => {
    event.preventDefault();
    trying("evaluation", start);
  });
  bound(byId("evaluation-cases"), limits.cases);
  byId("evaluation-form").querySelector("fieldset").disabled = !mayStart;
  byId("evaluate").disabled = models.length === 0;
  trying("evaluations", poll);
  return ask;
}

const precedes = (a, b) =>
  Boolean(a.compareDocumentPosition(b) & Node.DOCUMENT_POSITION_FOLLOWING);

function fillForm(models, benchmarks) {
  fillSelect(
    byId("evaluation-model"),
    models.map((model) => model.id),
  );
  new BenchmarkChoice("evaluation-", benchmarks, judgedTasks, ({ judges }) =>
    fillChoice(byId("evaluation-judge"), judges),
  );
}

function say(evaluation) {
  byId("evaluations-status").textContent = `${titleOf(evaluation)}: ${evaluation.status}.`;
}

// The part of the page that compares: its buttons, its progress, one comparison at a time.

import { permit } from "./access.js";
import { trying } from "./alerts.js";
import { CompareForm } from "./compare_form.js";
import { Comparison } from "./comparison.js";
import { byId } from "./dom.js";
import { count } from "./format.js";
import { Grid } from "./grid.js";

/**
 * Makes the part work, once the server has said who we are, which models and benchmarks there are.
 * @param {object[]} benchmarks whose cases can be drawn, if there are any
 * @returns {{listen: (evaluations: object[]) => void, offer: (ask: Function) => void}} for the
 *   scores in the list of models: what is evaluated, and how to ask for more
 */
export function setUpCompare({ role, limits, scales }, models, benchmarks) {
  const isAllowed = permit(byId("compare-denied"), role, "generate", "Drawing pictures");
  const form = new CompareForm(models, benchmarks, limits, scales);
  let grid = null;
  let comparison = null;
  let stopper = null;

  /** Goes on with the comparison that there is, or begins the one that the form asks for. */
  async function run() {
    stopper = new AbortController();
    showRunning(true);
    try {
      comparison ??= await begin(stopper.signal);
      report("");
      await comparison.complete(stopper.signal, () => report(""));
    } finally {
      showRunning(false);
      report(stopper.signal.aborted ? "Stopped: " : "");
    }
  }

  async function begin(signal) {
    const { models: chosen, judge } = form; // as they are now, whatever the user changes meanwhile
    byId("compare-status").textContent = "Fetching the cases.";
    const rows = await form.rows(signal);
    grid?.clear();
    grid = new Grid(byId("grid"), rows, chosen, judge, scales[judge]);
    return new Comparison(grid, rows, chosen);
  }

  function report(before) {
    if (!comparison) {
      byId("compare-status").textContent = before && "Stopped.";
      return;
    }
    const { total, drawn, judged, failed, missing } = comparison.progress;
    const parts = [`${drawn} of ${count(total, "picture")} drawn`];
    if (judged) parts.push(`${judged} judged`);
    if (failed) parts.push(`${failed} failed`);
    byId("compare-status").textContent = `${before}${parts.join(", ")}.`;
    byId("compare-progress").value = total - missing;
    byId("compare-progress").max = total;
    byId("complete").textContent = `Go on with the ${missing} missing`;
  }

  function showRunning(isRunning) {
    const [generate, stop, complete] = ["generate", "stop", "complete"].map(byId);
    const wasPressed = [generate, stop, complete].includes(document.activeElement);
    generate.disabled = isRunning;
    stop.hidden = byId("compare-progress").hidden = !isRunning;
    complete.hidden = isRunning || !comparison?.progress.missing;
    // The button that was pressed is gone: the keyboard goes on at the one in its place.
    if (wasPressed) (isRunning ? stop : generate).focus();
  }

  byId("compare-form").addEventListener("submit", (event) => {
    event.preventDefault();
    comparison = null;
    trying("compare", run);
  });
  byId("complete").addEventListener("click", () => trying("compare", run));
  byId("stop").addEventListener("click", () => stopper.abort());
  form.offer(isAllowed);
  byId("generate").disabled = !isAllowed || models.length === 0;
  return {
    listen: (evaluations) => form.scores.listen(evaluations),
    offer: (ask) => isAllowed && form.scores.offer(ask),
  };
}

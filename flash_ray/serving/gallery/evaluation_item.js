// One evaluation in the list; updated in place, so that the keyboard's focus stays.

import { element } from "./dom.js";
import { count, decimal, extentOf, rangeOf, titleOf, workOf } from "./format.js";

export const isActive = ({ status }) => status === "queued" || status === "running";

export class Item {
  #progress = element("progress");
  #score = element("p", { className: "score" });
  #state = element("span", { className: "state" });
  #error = element("p", { className: "failure" });
  #choice = element("input", { type: "checkbox" });
  #open = element("button", { type: "button" }, "Open");
  #cancel = element("button", { type: "button" }, "Cancel");

  /** `onChoice` is told when it is chosen, or not any more; `cancel` is false if the caller may not. */
  constructor(evaluation, { open, cancel, onChoice }) {
    const { id, model, created } = evaluation;
    const title = titleOf(evaluation);
    const how = extentOf(evaluation);
    this.#choice.setAttribute("aria-label", `Choose ${title}, ${how}`);
    this.#choice.addEventListener("change", onChoice);
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
    const choice = element("label", { className: "choice" }, this.#choice);
    const buttons = element("div", { className: "buttons" }, this.#open, this.#cancel);
    this.box = element("li", { tabIndex: -1 }, choice, name, this.#progress, this.#score);
    this.box.append(this.#state, buttons, this.#error);
  }

  /** Whether it can be chosen. */
  get isOffered() {
    return !this.#choice.hidden;
  }

  get isChosen() {
    return this.#choice.checked && this.isOffered;
  }

  update(evaluation) {
    const { status, progress, score, scale, error } = evaluation;
    const focused = document.activeElement;
    this.evaluation = evaluation;
    this.#progress.max = Math.max(progress.total, 1);
    this.#progress.value = progress.done;
    this.#state.textContent = `${status}, ${progress.done} of ${progress.total}`;
    if (score) this.#showScore(score, progress.total, scale);
    this.#error.textContent = error ?? "";
    this.#progress.hidden = !isActive(evaluation);
    this.#choice.hidden = this.#open.hidden = status !== "succeeded";
    this.#cancel.hidden = !isActive(evaluation);
    // The button that was pressed is gone: the keyboard goes on at its place.
    if (focused.hidden && this.box.contains(focused)) this.box.focus();
  }

  /** The mean and its interval, and on how many cases: others may be scored on more. */
  #showScore({ score, interval, counted }, total, scale) {
    const cases = counted === total ? count(total, "case") : `${counted} of ${total} cases`;
    this.#score.replaceChildren(
      element("strong", {}, score === null ? "no score" : decimal(score, scale)),
      rangeOf(interval, scale),
      element("span", { className: "soft" }, ` on ${cases}`),
    );
  }
}

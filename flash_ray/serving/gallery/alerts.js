// What went wrong with the server, at the top of the page, and a button to try again.

import { ApiError } from "./api.js";
import { byId, element } from "./dom.js";

const shown = new Map();

/**
 * Does `work`. If the server fails it, says so and offers to do it again; an error of the page
 * itself goes on to the banner of errors.js, and an abort is what the user wanted.
 * @param {string} name of the work: a new attempt takes the old one's message away
 */
export async function trying(name, work) {
  dismiss(name);
  try {
    await work();
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof ApiError)) throw error;
    complain(name, error, () => trying(name, work));
  }
}

/** Shows a failure of the server; `retry` is offered where it may help. */
export function complain(name, error, retry) {
  dismiss(name);
  const alert = element("div", { className: "alert", role: "alert" });
  const button = (text, act) => {
    const made = element("button", { type: "button" }, text);
    made.addEventListener("click", act);
    return made;
  };
  const again = error.again && button("Retry", retry);
  const close = button("Dismiss", () => dismiss(name));
  const buttons = element("div", { className: "buttons" }, again, close);
  alert.append(element("p", {}, error.message), buttons);
  byId("alerts").append(alert);
  shown.set(name, alert);
}

export function dismiss(name) {
  shown.get(name)?.remove();
  shown.delete(name);
}

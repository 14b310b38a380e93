// Answers of evaluations: their pictures, fetched as they are shown, and what is said of each.

import { trying } from "./alerts.js";
import { readPicture } from "./api.js";
import { capOf, detailLines } from "./details.js";
import { element } from "./dom.js";
import { decimal, spaced } from "./format.js";
import { Pictures } from "./pictures.js";
import { Pool } from "./pool.js";

const READS = 4; // pictures fetched at a time
export const PAGE = 24; // cases shown at a time

/** The pictures of one view; `clear` is called when it goes. */
export class AnswerPictures {
  #pictures = new Pictures();
  #loading = new AbortController();

  /** A place for a picture of the server's; `load` puts it there. */
  frame(path, file, description) {
    const note = element("p", { className: "note" }, "loading");
    const made = element("div", { className: "frame" }, note);
    Object.assign(made.dataset, { path, file, description });
    return made;
  }

  /** Puts pictures into the frames within some elements. */
  load(boxes) {
    const { signal } = this.#loading;
    const frames = boxes.flatMap((box) => [...box.querySelectorAll(".frame[data-path]")]);
    return trying("pictures", () => this.#fill(frames, signal));
  }

  clear() {
    this.#loading.abort();
    this.#loading = new AbortController();
    this.#pictures.clear();
  }

  /** Frames that are no longer on the page have their pictures already: this may be a retry. */
  #fill(frames, signal) {
    const reads = new Pool(READS);
    const load = async (frame) => {
      const { path, file, description } = frame.dataset;
      const blob = await readPicture(path, signal);
      signal.throwIfAborted();
      const { open, save } = this.#pictures.show(blob, description, file);
      frame.replaceWith(element("div", { className: "answer" }, open, save));
    };
    const empty = frames.filter((frame) => frame.isConnected);
    return Promise.all(empty.map((frame) => reads.run(() => load(frame))));
  }
}

/**
 * Appends items to a list a page at a time, with a button for the next.
 * @param {HTMLElement} list
 * @param {object[]} entries one for each item
 * @param {(entry: object) => HTMLElement} draw makes an item that can be focused
 * @param {AnswerPictures} pictures
 * @returns {HTMLElement} the button
 */
export function paged(list, entries, draw, pictures) {
  const more = element("button", { type: "button" });
  let left = entries;
  const next = () => {
    const items = left.slice(0, PAGE).map(draw);
    left = left.slice(PAGE);
    more.hidden = left.length === 0;
    more.textContent = `Show more of the ${left.length} others`;
    list.append(...items);
    pictures.load(items);
    return items;
  };
  more.addEventListener("click", () => next()[0].focus());
  next();
  return more;
}

/** Paragraphs under an answer: why its score is no higher, and its parts. */
export function remarks(answer) {
  const cap = capOf(answer);
  const parts = Object.entries(answer.measures).map(
    ([name, value]) => `${spaced(name)} ${decimal(value)}`,
  );
  return [
    cap && element("p", { className: "failure" }, cap),
    ...detailLines(answer),
    parts.length > 0 && element("p", { className: "soft" }, parts.join(", ")),
  ].filter(Boolean);
}

/** A box of its own for what may be too wide; the keyboard reaches it and scrolls it. */
export function scroller(name, content) {
  const box = element("div", { className: "scroll", tabIndex: 0, role: "region" }, content);
  box.setAttribute("aria-label", name);
  return box;
}

// Pictures on the page, each with a link to its raw file; object URLs end with what shows them.

import { element } from "./dom.js";

// Smaller pictures are shown as the pixels they are.
const SMALL = 256;

/** The PNG that the API sends as base64. */
export function fromBase64(b64) {
  const bytes = Uint8Array.from(atob(b64), (letter) => letter.charCodeAt(0));
  return new Blob([bytes], { type: "image/png" });
}

/** A name to save a case's picture to edit under. */
export const inputFile = (id, index) => `${id}-input${index ? `-${index + 1}` : ""}.png`;

/** The pictures of one part of the page. */
export class Pictures {
  #urls = [];

  /**
   * The picture as a link that opens the raw file in a new tab, and a link that saves it.
   * @param {Blob} blob
   * @param {string} description what a person who does not see it should know
   * @param {string} file name to save it under
   */
  show(blob, description, file) {
    const url = URL.createObjectURL(blob);
    this.#urls.push(url);
    const image = element("img", { src: url, alt: description });
    image.addEventListener("load", () => {
      image.classList.toggle("pixels", image.naturalWidth < SMALL);
    });
    const open = element("a", { href: url, target: "_blank", className: "picture" }, image);
    open.title = "Open the raw picture in a new tab";
    const save = element("a", { href: url, download: file, className: "save" }, "save");
    save.setAttribute("aria-label", `Save ${file}`);
    return { open, save };
  }

  /** To be called when they are no longer on the page. */
  clear() {
    for (const url of this.#urls) URL.revokeObjectURL(url);
    this.#urls = [];
  }
}

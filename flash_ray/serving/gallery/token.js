// The token that the server may ask for: kept in this tab's session storage, nowhere else.

import { byId } from "./dom.js";

const KEY = "flash_ray.token";

let asking = null;

export const currentToken = () => sessionStorage.getItem(KEY);

/**
 * Asks the user for a token; whoever asks meanwhile gets the same answer.
 * @param {boolean} isWrong whether the server does not know the current one
 * @returns {Promise<boolean>} whether the user gave one
 */
export function askToken(isWrong) {
  asking ??= ask(isWrong).finally(() => (asking = null));
  return asking;
}

/** Lets the user forget the token, and with it all that the page got with its help. */
export function setUpForgetting() {
  byId("forget").hidden = currentToken() === null;
  byId("forget").addEventListener("click", () => {
    sessionStorage.removeItem(KEY);
    location.reload();
  });
}

function ask(isWrong) {
  const [dialog, field, problem] = ["token-dialog", "token", "token-problem"].map(byId);
  problem.textContent = isWrong ? "The server does not know this token." : "";
  field.value = "";
  field.oninput = () => (problem.textContent = "");
  byId("token-cancel").onclick = () => dialog.close("");
  dialog.returnValue = "";
  dialog.querySelector("form").onsubmit = (event) => {
    event.preventDefault();
    const token = field.value.trim();
    // Nothing else can travel in a header.
    if (!/^[\x21-\x7e]+$/.test(token)) {
      problem.textContent = "A token is made of letters, digits and signs, without spaces.";
      return;
    }
    sessionStorage.setItem(KEY, token);
    byId("forget").hidden = false;
    dialog.close("given");
  };
  dialog.showModal();
  field.focus();
  return new Promise((resolve) => {
    dialog.onclose = () => resolve(dialog.returnValue === "given");
  });
}

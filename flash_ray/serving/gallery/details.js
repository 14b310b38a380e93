// What a judge says of an answer beside its score, in words.

import { faultLines } from "./attributes.js";
import words from "./judged_words.json" with { type: "json" };
import { element } from "./dom.js";
import { decimal } from "./format.js";

const WORDS = {
  wanted: "text wanted",
  read: "text read",
  cer: "character error rate",
  text: "what it answered",
};
const ELSEWHERE = ["attributes", "cap"]; // they have lines of their own

/** Why the score is no higher, if the judge says so; "" if not. */
export const capOf = ({ details }) => (details.cap ? `capped: ${details.cap}` : "");

/**
 * Paragraphs that say what a score comes from, or why there is none.
 * @param {{score: ?number, failure: ?string, details: object}} judged
 */
export function detailLines({ score, failure, details }) {
  const lines = Object.entries(details)
    .filter(([name, value]) => !ELSEWHERE.includes(name) && isPlain(value))
    .map(([name, value]) => element("p", { className: "fault" }, inWords(name, value)));
  return [...faultLines(details.attributes), ...missing(score, failure), ...lines];
}

function missing(score, failure) {
  if (failure) {
    const why = `No score: ${words.failures[failure] ?? failure}.`;
    return [element("p", { className: "failure" }, why)];
  }
  if (score !== null) return [];
  const why = "No score: there is nothing here that this judge looks at.";
  return [element("p", { className: "fault" }, why)];
}

const isPlain = (value) => ["number", "string", "boolean"].includes(typeof value);

function inWords(name, value) {
  const isFraction = typeof value === "number" && !Number.isInteger(value);
  const shown = isFraction ? decimal(value) : String(value);
  return `${WORDS[name] ?? name.replaceAll("_", " ")}: ${shown || "nothing"}`;
}

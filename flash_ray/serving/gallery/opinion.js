// What judges other than the exact one say of an answer, in words.

import { element } from "./dom.js";
import { decimal } from "./format.js";

const FAILURES = {
  refused: "the judge refused to answer",
  unparsed: "the judge did not answer in the form that it was asked for",
};
const WORDS = {
  wanted: "text wanted",
  read: "text read",
  cer: "character error rate",
  text: "what it answered",
};

/**
 * Paragraphs that say why there is no score, and what an opinion comes from.
 * @param {{score: ?number, failure: ?string, details: ?object}} answer the exact judge's has
 *   neither failure nor details
 */
export function opinionLines({ score, failure, details }) {
  const lines = Object.entries(details ?? {})
    .filter(([, value]) => value !== null)
    .map(([name, value]) => element("p", { className: "fault" }, inWords(name, value)));
  if (failure) {
    const why = `No opinion: ${FAILURES[failure] ?? failure}.`;
    return [element("p", { className: "failure" }, why), ...lines];
  }
  if (score === null) {
    const why = "No opinion: there is nothing here that this judge looks at.";
    return [element("p", { className: "fault" }, why), ...lines];
  }
  return lines;
}

function inWords(name, value) {
  const isFraction = typeof value === "number" && !Number.isInteger(value);
  const shown = isFraction ? decimal(value) : String(value);
  return `${WORDS[name] ?? name}: ${shown || "nothing"}`;
}

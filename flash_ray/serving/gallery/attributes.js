// The attributes of a picture that a judge looks at, in words; reports have the same ones.

import { element } from "./dom.js";
import words from "./judged_words.json" with { type: "json" };

const OF_OBJECT = /^(left|middle|right)_(colour|x|size)$/;

/**
 * Paragraphs that say which attributes do not hold.
 * @param {Object<string, number>=} attributes credit from 0 to 1; of edits "changed.*" and "kept.*";
 *   a judge need not have any
 */
export function faultLines(attributes) {
  if (!attributes) return [];
  return faults(attributes).map((fault) => element("p", { className: "fault" }, fault));
}

function faults(attributes) {
  const groups = new Map();
  for (const [name, credit] of Object.entries(attributes)) {
    if (credit === 1) continue;
    const [attribute, part] = name.split(".").reverse();
    const heading = words.headings[part] ?? "Wrong";
    const fault = inWords(attribute) + (credit > 0 ? " (half right)" : "");
    groups.set(heading, [...(groups.get(heading) ?? []), fault]);
  }
  if (groups.size === 0) return ["Everything that was asked is there."];
  return [...groups].map(([heading, faults]) => `${heading}: ${faults.join(", ")}.`);
}

function inWords(name) {
  const [, slot, property] = OF_OBJECT.exec(name) ?? [];
  if (slot) return `${words.properties[property] ?? property} of the ${slot} object`;
  return words.attributes[name] ?? name.replaceAll("_", " ").replaceAll("colour", "color");
}

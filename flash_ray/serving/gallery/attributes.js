// The attributes of a picture that a judge looks at, in words.

import { element } from "./dom.js";

// Those that do not read well as they are called.
const WORDS = {
  no_other_objects: "number of objects",
  kind: "kind of the new object",
  colour: "color of the new object",
  left: "left object",
  middle: "middle object",
  right: "right object",
  wears: "what is worn",
  x: "place from left to right",
  y: "place from top to bottom",
  pattern_phase: "place of the pattern",
};
const OF_OBJECT = /^(left|middle|right)_(colour|x|size)$/;
const PROPERTIES = { x: "place", colour: "color" };
const HEADINGS = { changed: "Not changed as asked", kept: "Not kept" }; // of edits

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
    const heading = HEADINGS[part] ?? "Wrong";
    const words = inWords(attribute) + (credit > 0 ? " (half right)" : "");
    groups.set(heading, [...(groups.get(heading) ?? []), words]);
  }
  if (groups.size === 0) return ["Everything that was asked is there."];
  return [...groups].map(([heading, words]) => `${heading}: ${words.join(", ")}.`);
}

function inWords(name) {
  const [, slot, property] = OF_OBJECT.exec(name) ?? [];
  if (slot) return `${PROPERTIES[property] ?? property} of the ${slot} object`;
  return WORDS[name] ?? name.replaceAll("_", " ").replaceAll("colour", "color");
}

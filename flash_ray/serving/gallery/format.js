// Numbers and titles as a person reads them.

const FIVE = "1 to 5"; // the scale of judges that give points as people do

/** The decimals of scores on a judge's scale; measures have those of points. */
const digits = (scale) => (scale === FIVE ? 2 : 3);

/** A score, or a measure of it; nothing where the judge has none. */
export const decimal = (value, scale = FIVE) => value?.toFixed(digits(scale)) ?? "";

/** A difference of scores, e.g. "+0.12" or "−0.05". */
export const signed = (value, scale = FIVE) =>
  value === null ? "" : `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits(scale))}`;

/** A mean score and its 95 % interval, e.g. "4.35 [4.21, 4.47]"; `show` writes a number. */
export const withInterval = ({ score, interval }, scale, show = decimal) =>
  `${show(score, scale)}${rangeOf(interval, scale, show)}`;

/** The interval alone, after a space; nothing if there is none. */
export const rangeOf = (interval, scale, show = decimal) =>
  interval ? ` [${interval.map((value) => show(value, scale)).join(", ")}]` : "";

export const seconds = (value) => `${value.toFixed(value < 10 ? 2 : 1)} s`;

export const mebibytes = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

/** "1 picture", "2 pictures". */
export const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

/** A name of code as words. */
export const spaced = (name) => name.replaceAll("_", " ");

/** "a", "a and b", "a, b and c". */
export const listed = (words) =>
  words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;

/** What an evaluation asks of its model, e.g. "on signs t2i, judged by ocr". */
export const workOf = ({ benchmark, task, judge }) =>
  `on ${benchmark} ${task}, judged by ${judge}`;

export const titleOf = (evaluation) => `${evaluation.model} ${workOf(evaluation)}`;

/** Which cases it asks, e.g. "24 cases a category, seed 0". */
export const extentOf = ({ cases, seed }) => `${count(cases, "case")} a category, seed ${seed}`;

export const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

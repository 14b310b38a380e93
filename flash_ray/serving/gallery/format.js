// Numbers and titles as a person reads them.

/** A score, or a measure of it; nothing where the judge has none. */
export const decimal = (value) => value?.toFixed(2) ?? "";

export const seconds = (value) => `${value.toFixed(value < 10 ? 2 : 1)} s`;

export const mebibytes = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

/** "1 picture", "2 pictures". */
export const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

/** What an evaluation asks of its model, e.g. "on miniature t2i, judged by ocr". */
export const workOf = ({ benchmark, task, judge }) =>
  `on ${benchmark} ${task}, judged by ${judge}`;

export const titleOf = (evaluation) => `${evaluation.model} ${workOf(evaluation)}`;

export const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

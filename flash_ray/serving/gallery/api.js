// Calls the server: token, errors in words, busy answers. Knows the paths, not the page.

import { askToken, currentToken } from "./token.js";

export const PAGE = 100; // evaluations that one answer lists

const READ_MS = 60_000; // for what the server has at hand
const WORK_MS = 1_800_000; // for what it computes, which the user can stop

/** The server said no, or nothing: status 0. `again`: the same call may work later. */
export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.again = status === 0 || status === 401 || status === 429 || status >= 500;
    // No other call will fare better.
    this.final = [0, 401, 403, 502, 503, 504].includes(status);
  }
}

export const readMe = () => json("/v1/me");
export const listModels = async () => (await json("/v1/models")).data;
export const listBenchmarks = async () => (await json("/v1/benchmarks")).data;
export const readEvaluation = (id) => json(evaluationPath(id));
export const readPair = (id, other) =>
  json(`${evaluationPath(id)}/beside/${encodeURIComponent(other)}`);
export const cancelEvaluation = (id) => json(evaluationPath(id), { method: "DELETE" });
export const startEvaluation = (request) => json("/v1/evaluations", post(request));

/**
 * Evaluations, the newest first.
 * @param {number} least how many, if there are so many; whole pages are given
 * @param {number} since seconds since 1970; all from then on are given
 * @returns {Promise<{evaluations: object[], hasOlder: boolean}>}
 */
export async function listEvaluations(least, since) {
  const evaluations = [];
  let page;
  do {
    const after = page ? `&after=${encodeURIComponent(evaluations.at(-1).id)}` : "";
    page = await json(`/v1/evaluations?limit=${PAGE}${after}`);
    evaluations.push(...page.data);
  } while (page.has_more && (evaluations.length < least || evaluations.at(-1).created >= since));
  return { evaluations, hasOlder: page.has_more };
}

export async function listCases(benchmark, task, perCategory, signal) {
  const path = `/v1/benchmarks/${encodeURIComponent(benchmark)}/${task}/cases`;
  return (await json(`${path}?per_category=${perCategory}`, { signal })).data;
}

/** A picture of the server's, as a Blob; `path` is what the server gave for it. */
export const readPicture = (path, signal) => send(path, { signal }, (answer) => answer.blob());

/**
 * One picture.
 * @param {{model, prompt, seed, size, images}} request `images` are the Blobs to edit
 * @param {AbortSignal} signal stops it
 * @param {(seconds: number) => void} onBusy told each second how long a busy server wants us to
 *   wait, at last 0
 * @returns {Promise<{b64: string, seed: number, timings: object}>}
 */
export async function draw({ images, ...request }, signal, onBusy) {
  const fields = { ...request, n: 1 };
  const [path, sent] = images.length
    ? ["/v1/images/edits", { method: "POST", body: form(fields, images) }]
    : ["/v1/images/generations", post(fields)];
  const answer = await json(path, { ...sent, signal, onBusy, limit: WORK_MS });
  const { b64_json: b64, seed } = answer.data[0];
  return { b64, seed, timings: answer.timings };
}

/** What the judge says of an answer to a benchmark's case. */
export const judge = ({ benchmark, task, id }, b64, signal, onBusy) =>
  json("/v1/scores", {
    ...post({ benchmark, task, case: id, b64_json: b64 }),
    signal,
    onBusy,
    limit: WORK_MS,
  });

const evaluationPath = (id) => `/v1/evaluations/${encodeURIComponent(id)}`;

const post = (body) => ({
  method: "POST",
  body: JSON.stringify(body),
  headers: { "Content-Type": "application/json" },
});

function form(fields, images) {
  const made = new FormData();
  for (const [name, value] of Object.entries(fields)) made.append(name, value);
  for (const image of images) made.append("image", image);
  return made;
}

async function json(path, options = {}) {
  const text = await send(path, options, (answer) => answer.text());
  try {
    return JSON.parse(text);
  } catch {
    throw new ApiError(`The answer of ${path} is not JSON: ${text.slice(0, 100)}`, 500);
  }
}

/** Sends until the answer is one to work with; `read` takes its body. */
async function send(path, options, read) {
  for (;;) {
    const token = currentToken();
    const answer = await attempt(path, options, token, read);
    if (answer.status === 401) {
      // Another call may have got a new token meanwhile.
      if (currentToken() === token && !(await askToken(token !== null))) {
        throw new ApiError("The server asks for a token, and none was given.", 401);
      }
    } else if (answer.status === 429 && options.onBusy) {
      await waitBusy(answer.retryAfter, options);
    } else if (answer.ok) {
      return answer.body;
    } else {
      throw new ApiError(problemOf(answer), answer.status);
    }
  }
}

async function attempt(
  path,
  { method, body: sent, headers, signal, limit = READ_MS },
  token,
  read,
) {
  const clock = AbortSignal.timeout(limit);
  try {
    const response = await fetch(path, {
      method,
      body: sent,
      headers: token ? { ...headers, Authorization: `Bearer ${token}` } : headers,
      signal: signal ? AbortSignal.any([signal, clock]) : clock,
    });
    const { ok, status } = response;
    const body = await (ok ? read(response) : response.text());
    return { ok, status, body, retryAfter: Number(response.headers.get("Retry-After")) };
  } catch (error) {
    if (error.name === "TimeoutError") {
      throw new ApiError(`The server has not answered for ${limit / 1000} s.`, 0);
    }
    // What fetch throws when there is no connection, or it breaks.
    if (error instanceof TypeError) {
      throw new ApiError(`The server at ${location.host} does not answer. Is it running?`, 0);
    }
    throw error;
  }
}

async function waitBusy(retryAfter, { onBusy, signal }) {
  for (let left = Math.max(1, Math.ceil(retryAfter || 1)); left > 0; left -= 1) {
    onBusy(left);
    await pause(1000, signal);
  }
  onBusy(0);
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

/** The server's own words; a proxy before it may not speak JSON. */
function problemOf({ status, body }) {
  try {
    return JSON.parse(body).error.message;
  } catch {
    return `The server answered ${status}: ${body.slice(0, 200) || "nothing"}`;
  }
}

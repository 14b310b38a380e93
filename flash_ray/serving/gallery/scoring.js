// Which scores can stand beside each other: those of the same cases, by the same judge.

/**
 * The scores of models that can stand beside each other: of all sets of equal cases the one that
 * most of the chosen models have scores on; of several the largest.
 * @param {object[]} models the server's
 * @param {object[]} chosen some of them
 * @param {object[]} evaluations the server's
 * @param {object} benchmark
 * @param {string} judge whose scores count
 * @returns {{cases: ?number, sets: Map<number, Map<string, object>>}} `sets`: by cases of a category
 *   and model, the scores by task
 */
export function scoreSets(models, chosen, evaluations, benchmark, judge) {
  const sets = new Map();
  const add = (cases, id, task, score) => {
    const set = sets.get(cases) ?? new Map();
    set.set(id, { ...set.get(id), [task]: score });
    sets.set(cases, set);
  };
  for (const { id, scores } of models) {
    if (!scores || scores.judge !== judge || !isOf(scores, benchmark)) continue;
    for (const [task, score] of Object.entries(scores.tasks)) {
      add(scores.cases_per_category, id, task, { score, interval: null });
    }
  }
  for (const evaluation of evaluations.filter((one) => isPlain(one, benchmark, judge))) {
    for (const { id, identity } of models) {
      if (identity === evaluation.identity) {
        add(evaluation.cases, id, evaluation.task, evaluation.score);
      }
    }
  }
  const covered = (set) =>
    chosen.reduce((sum, { id }) => sum + Object.keys(set.get(id) ?? {}).length, 0);
  const [best] = [...sets].sort(([a, x], [b, y]) => covered(y) - covered(x) || b - a);
  return { cases: best ? best[0] : null, sets };
}

/** Whether published scores are of a benchmark's cases. */
export const isOf = (scores, benchmark) =>
  scores.benchmark === benchmark.id && scores.digest === benchmark.digest;

/** Whether an evaluation scored what publishing scores too: the cases as they are, by that judge. */
const isPlain = (evaluation, benchmark, judge) =>
  Boolean(evaluation.score) && asksFor(evaluation, benchmark, judge);

const asksFor = (evaluation, benchmark, judge) =>
  evaluation.seed === 0 &&
  evaluation.judge === judge &&
  evaluation.benchmark === benchmark.id &&
  evaluation.benchmark_digest === benchmark.digest;

/** Evaluations that would give some models the scores that they lack on a set of cases. */
export function missingScores({ cases, sets }, models, benchmark, judge) {
  return models.flatMap(({ id: model }) =>
    Object.keys(benchmark.tasks)
      .filter((task) => benchmark.judges[task].includes(judge))
      .filter((task) => !sets.get(cases)?.get(model)?.[task])
      .map((task) => ({ model, benchmark: benchmark.id, task, cases, judge, seed: 0 })),
  );
}

/** The evaluation that a request asks for, of those listed, if it has not ended. */
export const underWay = (request, model, evaluations, benchmark) =>
  evaluations.find(
    (one) =>
      ["queued", "running"].includes(one.status) &&
      one.identity === model.identity &&
      one.task === request.task &&
      one.cases === request.cases &&
      asksFor(one, benchmark, request.judge),
  );

/**
 * What would make two evaluations alike: a request for the model of one, with the benchmark, the
 * cases, the judge and the seed of the other, which has more cases; null if the server cannot do it.
 */
export function likeness([left, right], { models, benchmarks, most }) {
  if (left.task !== right.task) return null;
  const can = ({ benchmark, benchmark_digest: digest, task, judge, cases }) => {
    const served = benchmarks.find((one) => one.id === benchmark && one.digest === digest);
    return served?.judges[task].includes(judge) && cases <= most;
  };
  const [like] = [left, right].filter(can).sort((a, b) => b.cases - a.cases);
  const other = like === left ? right : left;
  const model = models.find(({ identity }) => identity === other.identity);
  if (!like || !model) return null;
  const { benchmark, task, cases, judge, seed } = like;
  return { model: model.id, benchmark, task, cases, judge, seed };
}

// Starts the page: asks the server who we are and what there is, then sets up both parts.

import { trying } from "./alerts.js";
import { listBenchmarks, listModels, readMe } from "./api.js";
import { judgedTasks } from "./benchmark_choice.js";
import { setUpCompare } from "./compare.js";
import { byId } from "./dom.js";
import { setUpEvaluations } from "./evaluations.js";
import { setUpTabs } from "./tabs.js";
import { setUpForgetting } from "./token.js";

setUpTabs(document.querySelector("[role=tablist]"));
setUpForgetting();
await trying("start", async () => {
  const [me, models, benchmarks] = await Promise.all([readMe(), listModels(), listBenchmarks()]);
  const scores = setUpCompare(me, models, benchmarks);
  const judged = benchmarks.filter((benchmark) => judgedTasks(benchmark).length > 0);
  document.querySelector("[role=tablist]").hidden = judged.length === 0;
  if (judged.length === 0) return; // nothing is scored
  const ask = setUpEvaluations(me, models, judged, (listed) => scores.listen(listed));
  scores.offer(ask);
});

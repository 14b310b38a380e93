// Starts the page: asks the server who we are and what there is, then sets up both parts.

import { trying } from "./alerts.js";
import { listBenchmarks, listModels, readMe } from "./api.js";
import { setUpCompare } from "./compare.js";
import { byId } from "./dom.js";
import { setUpEvaluations } from "./evaluations.js";
import { setUpTabs } from "./tabs.js";
import { setUpForgetting } from "./token.js";

setUpTabs(document.querySelector("[role=tablist]"));
setUpForgetting();
await trying("start", async () => {
  const [me, models, benchmarks] = await Promise.all([readMe(), listModels(), listBenchmarks()]);
  const [benchmark = null] = benchmarks; // a server has one, or none: then nothing is scored
  const scores = setUpCompare(me, models, benchmark);
  document.querySelector("[role=tablist]").hidden = benchmark === null;
  if (!benchmark) return;
  const ask = setUpEvaluations(me, models, benchmark, (listed) => scores.listen(listed));
  scores.offer(ask);
});

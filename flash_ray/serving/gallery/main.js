// Starts the page: asks the server what there is, then sets up both parts.

import { trying } from "./alerts.js";
import { listBenches, listModels } from "./api.js";
import { setUpCompare } from "./compare.js";
import { byId } from "./dom.js";
import { setUpEvaluations } from "./evaluations.js";
import { setUpTabs } from "./tabs.js";
import { setUpForgetting } from "./token.js";

setUpTabs(document.querySelector("[role=tablist]"));
setUpForgetting();
await trying("start", async () => {
  const [models, benches] = await Promise.all([listModels(), listBenches()]);
  setUpCompare(models, benches);
  setUpEvaluations(models, benches);
});

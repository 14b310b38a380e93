// Starts the page: asks the server who we are and what there is, then sets up both parts.

import { trying } from "./alerts.js";
import { listBenches, listModels, readMe } from "./api.js";
import { setUpCompare } from "./compare.js";
import { byId } from "./dom.js";
import { setUpEvaluations } from "./evaluations.js";
import { setUpTabs } from "./tabs.js";
import { setUpForgetting } from "./token.js";

setUpTabs(document.querySelector("[role=tablist]"));
setUpForgetting();
await trying("start", async () => {
  const [me, models, benches] = await Promise.all([readMe(), listModels(), listBenches()]);
  setUpCompare(me, models, benches);
  setUpEvaluations(me, models, benches);
});

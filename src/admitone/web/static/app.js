// What scripts add to a page that works without them: it follows what happens, counts time, and helps with forms.

import { countDown } from "./countdown.js";
import { follow } from "./live.js";
import { helpForms } from "./forms.js";
import { showLocalTimes } from "./times.js";

function enliven() {
  showLocalTimes(document);
  helpForms(document);
  countDown(document);
}

enliven();
follow(enliven);

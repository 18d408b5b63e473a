// Enhances pages that work without scripts: times, live updates, the countdown, and help with forms.

import { startCountdown } from "./countdown.js";
import { enhanceForms } from "./forms.js";
import { startLiveUpdates } from "./live.js";
import { showLocalTimes } from "./times.js";

function enhance() {
  showLocalTimes(document);
  enhanceForms(document);
  startCountdown(document);
}

enhance();
startLiveUpdates(enhance);

// Time left by the server's clock: the server said how much was left, and a clock that never jumps counts from there.

import { announce } from "./page.js";

const ANNOUNCED_MINUTES = [1, 2, 5];

let timer = 0;
let corrections = new AbortController();
let isFirst = true;

/** When the answer that made this page began to arrive, on the clock that `performance.now()` reads. */
function answeredAt() {
  return performance.getEntriesByType("navigation")[0]?.responseStart ?? 0;
}

export function countDown(root) {
  clearTimeout(timer);
  corrections.abort();
  corrections = new AbortController();
  const clock = root.querySelector("[data-countdown]");
  // Only the first page came by navigation; what is put in place later has just arrived.
  const since = isFirst ? answeredAt() : performance.now();
  isFirst = false;
  if (!clock) return;
  const windowMs = Number(clock.dataset.windowMs);
  const text = clock.querySelector("[data-time-left]");
  const ring = clock.querySelector(".left");
  let endsAt = since + Number(clock.dataset.leftMs);
  let announced = Math.ceil((endsAt - performance.now()) / 60000);

  const correct = (event) => {
    endsAt = performance.now() + event.detail;
  };
  document.addEventListener("admitone:time-left", correct, { signal: corrections.signal });

  function tick() {
    if (!clock.isConnected) return;
    const left = endsAt - performance.now();
    const seconds = Math.max(0, Math.ceil(left / 1000));
    text.textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
    ring.setAttribute("stroke-dashoffset", String(100 - Math.min(100, Math.max(0, (100 * left) / windowMs))));
    clock.classList.toggle("soon", seconds <= 60);
    const due = ANNOUNCED_MINUTES.find((minutes) => seconds <= minutes * 60 && minutes < announced);
    if (due) {
      announced = due;
      announce(`${due} ${due === 1 ? "minute" : "minutes"} left to pay`);
    }
    if (left <= 0) {
      document.dispatchEvent(new CustomEvent("admitone:time-is-up"));
      timer = setTimeout(tick, 1000); // the server decides; until it has, ask again
      return;
    }
    timer = setTimeout(tick, left % 1000 || 1000);
  }
  tick();
}

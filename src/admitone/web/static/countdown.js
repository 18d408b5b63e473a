// The time left to pay, by the server's clock: the server sends how much is left, and a monotonic clock counts from there.

import { announce } from "./page.js";

const ANNOUNCED_MINUTES = [1, 2, 5];

let timer = 0;
let corrections = new AbortController();
let isFirstPage = true;

/** When the response with this page began to arrive, on the clock of `performance.now()`. */
function responseStart() {
  return performance.getEntriesByType("navigation")[0]?.responseStart ?? 0;
}

export function startCountdown(root) {
  clearTimeout(timer);
  corrections.abort();
  corrections = new AbortController();
  const countdown = root.querySelector("[data-countdown]");
  // Only the first page came by navigation; one that replaced it was fetched just now.
  const receivedAt = isFirstPage ? responseStart() : performance.now();
  isFirstPage = false;
  if (!countdown) return;
  const holdMs = Number(countdown.dataset.holdMs);
  const text = countdown.querySelector("[data-time-left]");
  const ring = countdown.querySelector(".left");
  let endsAt = receivedAt + Number(countdown.dataset.leftMs);
  let announcedMinutes = Math.ceil((endsAt - performance.now()) / 60000);

  const correct = (event) => {
    endsAt = performance.now() + event.detail;
  };
  document.addEventListener("admitone:time-left", correct, { signal: corrections.signal });

  function tick() {
    if (!countdown.isConnected) return;
    const leftMs = endsAt - performance.now();
    const seconds = Math.max(0, Math.ceil(leftMs / 1000));
    text.textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
    ring.setAttribute("stroke-dashoffset", String(100 - Math.min(100, Math.max(0, (100 * leftMs) / holdMs))));
    countdown.classList.toggle("soon", seconds <= 60);
    const due = ANNOUNCED_MINUTES.find((minutes) => seconds <= minutes * 60 && minutes < announcedMinutes);
    if (due) {
      announcedMinutes = due;
      announce(`${due} ${due === 1 ? "minute" : "minutes"} left to pay`);
    }
    if (leftMs <= 0) {
      document.dispatchEvent(new CustomEvent("admitone:time-is-up"));
      timer = setTimeout(tick, 1000); // until the server has ended the order, check again every second
      return;
    }
    timer = setTimeout(tick, leftMs % 1000 || 1000);
  }
  tick();
}

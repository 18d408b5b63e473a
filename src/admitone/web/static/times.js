// Shows times in the reader's time zone; the server writes them in UTC.
//
// The first paint waits for this module (`blocking="render"` in base.html), so a text of another length moves nothing,
// in any font. Browsers without that attribute (Firefox) may show the times in UTC for a moment.

const FORMATS = {
  "date-and-time": { weekday: "short", day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", timeZoneName: "short" },
  "time-of-day": { hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "short" },
};

export function showLocalTimes(root) {
  for (const time of root.querySelectorAll("time[data-time]")) {
    const format = new Intl.DateTimeFormat("en-GB", { ...FORMATS[time.dataset.time], hourCycle: "h23" });
    time.textContent = format.format(new Date(time.dateTime));
    delete time.dataset.time;
  }
}

showLocalTimes(document);

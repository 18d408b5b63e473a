// Shows times in the reader's time zone; the server writes them in UTC.

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

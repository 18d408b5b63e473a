// Times in the reader's own zone, saying which; the server writes them in UTC.

const KINDS = {
  when: { weekday: "short", day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", timeZoneName: "short" },
  clock: { hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "short" },
};

export function showLocalTimes(root) {
  for (const time of root.querySelectorAll("time[data-time]")) {
    const format = new Intl.DateTimeFormat("en-GB", { ...KINDS[time.dataset.time], hourCycle: "h23" });
    time.textContent = format.format(new Date(time.dateTime));
    time.removeAttribute("data-time");
  }
}

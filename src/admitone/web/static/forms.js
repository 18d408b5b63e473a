// Help with forms: sent once however often one clicks, prices written out, and the ticket shown as it will look.

export function helpForms(root) {
  for (const form of root.querySelectorAll("form[data-once]")) sendOnce(form);
  for (const input of root.querySelectorAll("input[inputmode=decimal]")) {
    input.addEventListener("blur", () => writeOut(input));
  }
  const when = root.querySelector("#eventDate");
  if (when) takeLocalTime(when, root.querySelector("[data-zone]"));
  const preview = root.querySelector("[data-preview]");
  if (preview) follow(root.querySelector("#fields"), preview);
}

function sendOnce(form) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) {
      event.preventDefault();
      return;
    }
    form.dataset.sent = "yes";
    event.submitter?.setAttribute("aria-disabled", "true");
  });
}

// Coming back by the browser's history finds the forms as they were left: they can be sent again.
window.addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) {
    delete form.dataset.sent;
    for (const button of form.querySelectorAll("[aria-disabled]")) button.removeAttribute("aria-disabled");
  }
});

/** Return an amount as typed in exact hundredths, or null: money is never a float, not even here. */
function cents(typed) {
  const found = /^\s*(\d{1,7})(?:[.,](\d{1,2}))?\s*$/.exec(typed);
  return found ? Number(found[1]) * 100 + Number((found[2] ?? "").padEnd(2, "0")) : null;
}

function amount(total) {
  return `${Math.floor(total / 100)}.${String(total % 100).padStart(2, "0")}`;
}

function writeOut(input) {
  const total = cents(input.value);
  if (total !== null) input.value = amount(total);
}

/** The form's time is in the reader's zone, and the instant travels beside it: without scripts both are UTC. */
function takeLocalTime(input, hint) {
  const instant = input.form.elements.eventInstant;
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  hint.textContent = `In your time zone, ${zone}`;
  const two = (number) => String(number).padStart(2, "0");
  if (input.dataset.instant) {
    const date = new Date(input.dataset.instant);
    const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
    input.value = `${day}T${two(date.getHours())}:${two(date.getMinutes())}`;
  }
  const follow = () => {
    const date = new Date(input.value);
    instant.value = input.value && !Number.isNaN(date.getTime()) ? date.toISOString() : "";
  };
  input.addEventListener("input", follow);
  follow();
}

function follow(fields, preview) {
  const currency = preview.querySelector(".ticket-currency").textContent;
  const format = new Intl.NumberFormat("en", { style: "currency", currency: currency.toUpperCase() });
  const money = (text) => (cents(text) === null ? "" : format.format(amount(cents(text))));
  const shown = {
    title: (text) => text || "Title",
    eventDate: (text) => text && new Date(text).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" }),
  };
  function show(input) {
    const place = preview.querySelector(`[data-shows="${input.name}"]`);
    if (!place) return;
    const plain = input.inputMode === "decimal" ? money : (typed) => typed;
    const text = (shown[input.name] ?? plain)(input.value.trim());
    place.textContent = text;
    if (input.name === "price") place.classList.toggle("long", text.length > 9);
    const part = place.closest("dl > div") ?? (input.name === "note" ? place : null);
    if (part) part.hidden = !text;
  }
  fields.addEventListener("input", (event) => show(event.target));
  for (const input of fields.querySelectorAll("[name]")) if (input.value) show(input);
}

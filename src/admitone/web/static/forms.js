// Help with forms: each is submitted once, prices are completed, and the ticket form has a preview.

export function enhanceForms(root) {
  for (const form of root.querySelectorAll("form[data-once]")) submitOnce(form);
  for (const input of root.querySelectorAll("input[inputmode=decimal]")) {
    input.addEventListener("blur", () => completeAmount(input));
  }
  const eventDate = root.querySelector("#eventDate");
  if (eventDate) useLocalTime(eventDate, root.querySelector("[data-zone]"));
  const preview = root.querySelector("[data-preview]");
  if (preview) updatePreview(root.querySelector("#fields"), preview);
}

function submitOnce(form) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.submitted) {
      event.preventDefault();
      return;
    }
    form.dataset.submitted = "yes";
    event.submitter?.setAttribute("aria-disabled", "true");
  });
}

// A page restored from the back/forward cache has its forms as they were left: they may be submitted again.
window.addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-submitted]")) allowSubmit(form);
});

/** Let a form be submitted again. */
export function allowSubmit(form) {
  delete form.dataset.submitted;
  for (const button of form.querySelectorAll("[aria-disabled]")) button.removeAttribute("aria-disabled");
}

// What copying leaves at the ends of words, as in kernel/text.py.
const INVISIBLE_AT_ENDS = /(?<![^\s])[\u00ad\u200b-\u200f\u2060\ufeff]+|[\u00ad\u200b-\u200f\u2060\ufeff]+(?![^\s])/g;

// A point or a comma before exactly three digits can mean thousands or decimals.
const UNCLEAR_AMOUNT = /^[1-9]\d{0,2}[.,]\d{3}$/;
const AMOUNTS = [
  /^(\d{1,9})(?:[.,](\d{1,2}))?$/,
  /^([1-9]\d{0,2}(?: \d{3}){1,2})(?:[.,](\d{1,2}))?$/,
  /^([1-9]\d{0,2}(?:'\d{3}){1,2})(?:[.,](\d{1,2}))?$/,
  /^([1-9]\d{0,2}(?:,\d{3}){1,2})(?:\.(\d{1,2}))?$/,
  /^([1-9]\d{0,2}(?:\.\d{3}){1,2})(?:,(\d{1,2}))?$/,
];

/** Return a typed amount in whole cents, or null, as `read_amount` in forms.py does; money is never a float. */
function centsOf(typed, signs) {
  let text = typed.replaceAll(INVISIBLE_AT_ENDS, "").trim().replaceAll(/\s+/g, " ").replaceAll("’", "'");
  for (const sign of signs) {
    const lowered = text.toLowerCase();
    if (lowered.startsWith(sign)) text = text.slice(sign.length).trimStart();
    else if (lowered.endsWith(sign)) text = text.slice(0, -sign.length).trimEnd();
    else continue;
    break;
  }
  if (UNCLEAR_AMOUNT.test(text)) return null;
  for (const amount of AMOUNTS) {
    const [, whole, decimals] = amount.exec(text) ?? [];
    if (whole) return Number(whole.replaceAll(/\D/g, "")) * 100 + Number((decimals ?? "").padEnd(2, "0"));
  }
  return null;
}

function amountOf(cents) {
  return `${Math.floor(cents / 100)}.${String(cents % 100).padStart(2, "0")}`;
}

const centsIn = (input) => centsOf(input.value, input.dataset.currencySigns.split(" "));

function completeAmount(input) {
  const cents = centsIn(input);
  if (cents !== null) input.value = amountOf(cents);
}

const twoDigits = (number) => String(number).padStart(2, "0");

/** Return a time in the reader's time zone as the value of a `datetime-local` field, with seconds if it has any. */
function localValue(date) {
  const day = `${date.getFullYear()}-${twoDigits(date.getMonth() + 1)}-${twoDigits(date.getDate())}`;
  const seconds = date.getSeconds() ? `:${twoDigits(date.getSeconds())}` : "";
  return `${day}T${twoDigits(date.getHours())}:${twoDigits(date.getMinutes())}${seconds}`;
}

/**
 * Let the field be in the reader's time zone and submit the instant in `eventInstant`; without scripts both are UTC.
 *
 * While the field shows the time it was given, that instant is submitted as it is: in the hour that is repeated when
 * clocks are set back, the field's value can mean two.
 */
function useLocalTime(input, hint) {
  const instant = input.form.elements.eventInstant;
  const given = input.dataset.instant;
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  hint.textContent = `In your time zone, ${zone}`;
  if (given) input.value = localValue(new Date(given));
  const givenValue = input.value;
  const updateInstant = () => {
    const date = new Date(input.value);
    if (given && input.value === givenValue) instant.value = given;
    else instant.value = input.value && !Number.isNaN(date.getTime()) ? date.toISOString() : "";
  };
  input.addEventListener("input", updateInstant);
  updateInstant();
}

function updatePreview(fields, preview) {
  const currency = preview.querySelector(".ticket-currency").textContent;
  const money = new Intl.NumberFormat("en", { style: "currency", currency: currency.toUpperCase() });
  const formatAmount = (text, input) => (centsIn(input) === null ? "" : money.format(amountOf(centsIn(input))));
  const formats = {
    title: (text) => text || "Title",
    price: formatAmount,
    faceValue: formatAmount,
    eventDate: (text) => text && new Date(text).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" }),
  };
  function update(input) {
    const target = preview.querySelector(`[data-preview-of="${input.name}"]`);
    if (!target) return;
    const format = formats[input.name] ?? ((typed) => typed);
    const text = format(input.value.trim(), input);
    target.textContent = text;
    if (input.name === "price") target.classList.toggle("long", text.length > 9);
    const part = target.closest("dl > div") ?? (input.name === "note" ? target : null);
    if (part) part.hidden = !text;
  }
  fields.addEventListener("input", (event) => update(event.target));
  for (const input of fields.querySelectorAll("[name]")) if (input.value) update(input);
}

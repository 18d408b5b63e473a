// Help with forms: each is submitted once, amounts are completed or explained, and the ticket form has a preview.

import { announce } from "./page.js";

export function enhanceForms(root) {
  for (const form of root.querySelectorAll("form[data-once]")) submitOnce(form);
  const eventDate = root.querySelector("#eventDate");
  if (eventDate) useLocalTime(eventDate, root.querySelector("[data-zone]"));
  const preview = root.querySelector("[data-preview]");
  if (preview) updatePreview(root.querySelector("#fields"), preview);
  for (const input of root.querySelectorAll("input[data-currency]")) checkAmount(input);
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

const TYPING_PAUSE_MS = 250;

// What appears beside a field moves what is below it. It must not while a button there is pressed: the press would be lost.
let released = Promise.resolve();
document.addEventListener("mousedown", () => {
  released = new Promise((resolve) => document.addEventListener("mouseup", resolve, { once: true }));
});

/**
 * Ask the server how it reads what is typed into a field for an amount.
 *
 * It returns the completed `amount` and its `text` with the currency, or what is `wrong` with it. Without a response the
 * field stays as it is: the server says the same when the form is submitted.
 */
async function readAmount(input) {
  const query = new URLSearchParams({ field: input.name, typed: input.value, currency: input.dataset.currency });
  try {
    const response = await fetch(`/amount?${query}`);
    return response.ok ? await response.json() : null;
  } catch {
    return null;
  }
}

/** Complete an amount, or explain what is wrong with it, when its field is left; show it in the preview while typing. */
function checkAmount(input) {
  const wrong = document.getElementById(`${input.id}-wrong`);
  let timer = 0;
  async function check(isLeft) {
    clearTimeout(timer);
    const typed = input.value;
    const reading = typed.trim() ? await readAmount(input) : {};
    await released;
    if (!reading || input.value !== typed) return;
    input.dispatchEvent(new CustomEvent("admitone:amount", { bubbles: true, detail: reading.text ?? "" }));
    if (isLeft && reading.amount) input.value = reading.amount;
    if (isLeft || !reading.wrong) explain(reading.wrong ?? "");
  }
  function explain(text) {
    if (text === wrong.textContent) return;
    wrong.textContent = text;
    if (text) input.setAttribute("aria-invalid", "true");
    else input.removeAttribute("aria-invalid");
    announce(text);
  }
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(check, TYPING_PAUSE_MS, false);
  });
  input.addEventListener("change", () => check(true));
  if (input.value !== input.defaultValue) check(false); // the browser restored what was typed
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
  const formats = {
    title: (text) => text || "Title",
    eventDate: (text) => text && new Date(text).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" }),
  };
  function show(name, text) {
    const target = preview.querySelector(`[data-preview-of="${name}"]`);
    if (!target) return;
    target.textContent = text;
    if (name === "price") target.classList.toggle("long", text.length > 9);
    const part = target.closest("dl > div") ?? (name === "note" ? target : null);
    if (part) part.hidden = !text;
  }
  function update(input) {
    if ("currency" in input.dataset) return; // the server's reading of an amount arrives as an event
    const format = formats[input.name] ?? ((typed) => typed);
    show(input.name, format(input.value.trim()));
  }
  fields.addEventListener("input", (event) => update(event.target));
  fields.addEventListener("admitone:amount", (event) => show(event.target.name, event.detail));
  for (const input of fields.querySelectorAll("[name]")) if (input.value) update(input);
}

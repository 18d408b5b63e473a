// Stripe's Payment Element: the card goes straight to Stripe, and the form posts only the token that stands for it.

import { allowSubmit } from "./forms.js";

const form = document.querySelector("form[data-stripe-key]");
const confirmButton = document.querySelector("[data-client-secret]");
const errorText = document.getElementById("stripe-error");

function showError(message) {
  errorText.textContent = message;
  errorText.hidden = !message;
}

function loadStripe() {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = "https://js.stripe.com/v3/";
    script.addEventListener("load", resolve);
    script.addEventListener("error", reject);
    document.head.append(script);
  });
}

async function start() {
  try {
    await loadStripe();
  } catch {
    showError("The card field cannot be loaded. Check the connection and load this page again.");
    return;
  }
  if (form) showPaymentElement(window.Stripe(form.dataset.stripeKey));
  else confirmOnClick(window.Stripe(confirmButton.dataset.stripeKey));
}

function confirmOnClick(stripe) {
  confirmButton.addEventListener("click", async () => {
    confirmButton.disabled = true;
    const { error } = await stripe.handleNextAction({ clientSecret: confirmButton.dataset.clientSecret });
    confirmButton.disabled = false;
    if (error) showError(error.message);
    else location.reload();
  });
}

function showPaymentElement(stripe) {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const elements = stripe.elements({
    mode: "payment",
    amount: Number(form.dataset.amount),
    currency: form.dataset.currency,
    captureMethod: "manual",
    paymentMethodCreation: "manual",
    appearance: { theme: dark ? "night" : "stripe" },
  });
  elements.create("payment").mount("#payment-element");
  form.addEventListener("submit", async (event) => {
    if (form.elements.token.value) return;
    event.preventDefault();
    showError("");
    const { error: invalid } = await elements.submit();
    const { error, paymentMethod } = invalid ? { error: invalid } : await stripe.createPaymentMethod({ elements });
    if (error) {
      showError(error.message);
      allowSubmit(form);
      return;
    }
    form.elements.token.value = paymentMethod.id;
    form.submit();
  });
}

if (form || confirmButton) start();

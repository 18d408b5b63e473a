// The card field of real Stripe: the card goes straight to Stripe, and only its token comes back to the form.

const form = document.querySelector("form[data-stripe-key]");
const confirmation = document.querySelector("[data-client-secret]");
const problem = document.getElementById("stripe-error");

function show(message) {
  problem.textContent = message;
  problem.hidden = !message;
}

function load() {
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
    await load();
  } catch {
    show("The card field cannot be loaded. Check the connection and load this page again.");
    return;
  }
  if (form) takeCard(window.Stripe(form.dataset.stripeKey));
  else confirmWithBank(window.Stripe(confirmation.dataset.stripeKey));
}

function confirmWithBank(stripe) {
  confirmation.addEventListener("click", async () => {
    confirmation.disabled = true;
    const { error } = await stripe.handleNextAction({ clientSecret: confirmation.dataset.clientSecret });
    confirmation.disabled = false;
    if (error) show(error.message);
    else location.reload();
  });
}

function takeCard(stripe) {
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
    show("");
    const { error: invalid } = await elements.submit();
    const { error, paymentMethod } = invalid ? { error: invalid } : await stripe.createPaymentMethod({ elements });
    if (error) {
      show(error.message);
      delete form.dataset.sent;
      form.querySelector("button").removeAttribute("aria-disabled");
      return;
    }
    form.elements.token.value = paymentMethod.id;
    form.submit();
  });
}

if (form || confirmation) start();

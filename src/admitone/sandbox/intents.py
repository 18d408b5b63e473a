"""What happens to a PaymentIntent: pure steps from one state of the object to the next.

    requires_payment_method ─┐            ┌─► requires_action ─┐
                             ├─ confirm ──┤                    ├─► requires_capture ─► succeeded
    requires_confirmation ───┘            └────────────────────┘   (or succeeded at once)
    any of these but succeeded ─► canceled

Source: Stripe documentation, "How PaymentIntents work" and "Place a hold on a payment method".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from admitone.kernel.money import decimal_of
from admitone.policy import CURRENCIES, LARGEST_CENTS, SMALLEST_CENTS
from admitone.sandbox import cards
from admitone.sandbox.cards import Card
from admitone.sandbox.ids import new_id
from admitone.sandbox.problems import Json, Problem, invalid, missing, unexpected_state

AUTHORISATION_SECONDS: Final = 7 * 24 * 3600

_METADATA_KEYS_MAX: Final = 50
_METADATA_KEY_CHARACTERS_MAX: Final = 40
_METADATA_VALUE_CHARACTERS_MAX: Final = 500
_CONFIRMABLE: Final = frozenset({"requires_payment_method", "requires_confirmation", "requires_action"})
_CANCELABLE: Final = (
    *("requires_payment_method", "requires_capture", "requires_confirmation", "requires_action", "processing"),
)
_CANCELLATION_REASONS: Final = frozenset({"duplicate", "fraudulent", "requested_by_customer", "abandoned"})


@dataclass(frozen=True)
class Step:
    """What one request did: the answer, the intent as it is now, and the events to tell."""

    intent: Json
    events: tuple[str, ...] = ()
    problem: Problem | None = None


def public(intent: Json) -> Json:
    """Return the intent as the API shows it: without what the sandbox notes for itself."""
    return {key: value for key, value in intent.items() if not key.startswith("_")}


def create(params: Json, now: int) -> Json:
    """Return a new intent that was not confirmed yet; raises Problem for what makes no sense."""
    amount, currency = params["amount"], params["currency"]
    if currency not in CURRENCIES:
        raise invalid(f"Invalid currency: {currency}.", param="currency")
    if amount < SMALLEST_CENTS:
        least = f"{decimal_of(SMALLEST_CENTS)} {currency}"
        raise invalid(f"Amount must be at least {least}", param="amount", code="amount_too_small")
    if amount > LARGEST_CENTS:
        most = f"{decimal_of(LARGEST_CENTS):,} {currency}"
        raise invalid(f"Amount must be no more than {most}", param="amount", code="amount_too_large")
    capture_method = params.get("capture_method", "automatic_async")
    if capture_method not in {"automatic", "automatic_async", "manual"}:
        raise invalid("Invalid capture_method: must be automatic, automatic_async, or manual", param="capture_method")
    methods = params.get("automatic_payment_methods", {"enabled": True})
    if not methods["enabled"]:
        raise invalid("This sandbox only offers automatic payment methods", param="automatic_payment_methods[enabled]")
    intent_id = new_id("pi")
    return {
        "id": intent_id,
        "object": "payment_intent",
        "amount": amount,
        "amount_capturable": 0,
        "amount_received": 0,
        "application": None,
        "automatic_payment_methods": {"allow_redirects": methods.get("allow_redirects", "always"), "enabled": True},
        "canceled_at": None,
        "cancellation_reason": None,
        "capture_method": capture_method,
        "client_secret": f"{intent_id}_secret_{new_id('')}",
        "confirmation_method": "automatic",
        "created": now,
        "currency": currency,
        "customer": None,
        "description": params.get("description"),
        "last_payment_error": None,
        "latest_charge": None,
        "livemode": False,
        "metadata": _metadata(params.get("metadata") or {}),
        "next_action": None,
        "on_behalf_of": None,
        "payment_method": None,
        "payment_method_types": ["card"],
        "processing": None,
        "receipt_email": None,
        "setup_future_usage": None,
        "shipping": None,
        "statement_descriptor": None,
        "statement_descriptor_suffix": None,
        "status": "requires_payment_method",
        "transfer_group": None,
    }


def _metadata(given: Mapping[str, str]) -> Json:
    if len(given) > _METADATA_KEYS_MAX:
        raise invalid(f"Metadata can have at most {_METADATA_KEYS_MAX} keys", param="metadata")
    for key, value in given.items():
        if len(key) > _METADATA_KEY_CHARACTERS_MAX:
            raise invalid(f"Metadata keys can have up to {_METADATA_KEY_CHARACTERS_MAX} characters", param="metadata")
        if len(value) > _METADATA_VALUE_CHARACTERS_MAX:
            most = _METADATA_VALUE_CHARACTERS_MAX
            raise invalid(f"Metadata values can have up to {most} characters", param=f"metadata[{key}]")
    return {key: value for key, value in given.items() if value}


def chosen_card(params: Json, confirmation_token: Json | None = None) -> Card | None:
    """Return the card the request pays with; raises Problem when it names one that does not exist."""
    if confirmation_token is not None:
        return cards.by_payment_method(confirmation_token["payment_method"])
    if (name := params.get("payment_method")) is not None:
        return _known(cards.by_payment_method(name), "PaymentMethod", name, "payment_method")
    data = params.get("payment_method_data")
    if data is None:
        return None
    if data["type"] != "card" or "card" not in data:
        raise invalid("This sandbox only takes cards, by token", param="payment_method_data[type]")
    token = data["card"]["token"]
    return _known(cards.by_token(token), "token", token, "payment_method_data[card][token]")


def _known(card: Card | None, kind: str, name: str, param: str) -> Card:
    if card is None:
        raise Problem(400, f"No such {kind}: '{name}'", code="resource_missing", param=param)
    return card


def with_card(intent: Json, card: Card | None) -> Json:
    """Return the intent with the card it will be paid with, not confirmed yet."""
    if card is None:
        return intent
    return intent | {"payment_method": card.payment_method, "status": "requires_confirmation"}


def confirm(intent: Json, params: Json, card: Card | None, *, base_url: str, now: int) -> Step:
    """Charge the card: authorise, ask for authentication, or refuse; raises Problem for what makes no sense."""
    status = intent["status"]
    if status not in _CONFIRMABLE:
        why = "it has already been confirmed" if status == "requires_capture" else f"it has a status of {status}"
        raise unexpected_state(f"You cannot confirm this PaymentIntent because {why}.", public(intent))
    card = card or (cards.by_payment_method(intent["payment_method"]) if intent["payment_method"] else None)
    if card is None:
        raise unexpected_state(
            "You cannot confirm this PaymentIntent because it's missing a payment method.", public(intent)
        )
    return_url = params.get("return_url")
    if return_url is None and intent["automatic_payment_methods"]["allow_redirects"] == "always":
        raise invalid(
            "This PaymentIntent is configured to accept payment methods enabled in your Dashboard. Because some of"
            " these might redirect your customer off of your page, you must provide a `return_url`, or set"
            " `automatic_payment_methods[allow_redirects]` to `never`."
        )
    intent = intent | {"payment_method": card.payment_method, "last_payment_error": None, "next_action": None}
    if card.needs_authentication:
        page = f"{base_url}/sandbox/authenticate/{intent['id']}?client_secret={intent['client_secret']}"
        by_redirect = return_url is not None and not params.get("use_stripe_sdk", False)
        action: Json = (
            {"type": "redirect_to_url", "redirect_to_url": {"return_url": return_url, "url": page}}
            if by_redirect
            else {"type": "use_stripe_sdk", "use_stripe_sdk": {"type": "three_d_secure_redirect", "stripe_js": page}}
        )
        return Step(intent | {"status": "requires_action", "next_action": action}, ("payment_intent.requires_action",))
    if card.refusal is not None:
        return _refused(intent, card, card.refusal)
    return _authorised(intent, now)


def authenticate(intent: Json, *, is_approved: bool, now: int) -> Step:
    """Finish what `requires_action` waits for: the buyer approved the payment at the bank, or did not."""
    if intent["status"] != "requires_action":
        raise unexpected_state("This PaymentIntent does not wait for authentication.", public(intent))
    card = cards.by_payment_method(intent["payment_method"])
    assert card is not None
    if is_approved:
        return _authorised(intent, now)
    unauthenticated = cards.Refusal(
        "payment_intent_authentication_failure",
        None,
        "We are unable to authenticate your payment method. Please choose a different payment method and try again.",
    )
    return _refused(intent, card, unauthenticated, kind="invalid_request_error")


def _authorised(intent: Json, now: int) -> Step:
    held = intent | {"next_action": None, "latest_charge": new_id("ch"), "_charged_at": now}
    if intent["capture_method"] == "manual":
        held |= {"status": "requires_capture", "amount_capturable": intent["amount"]}
        held["_capture_before"] = now + AUTHORISATION_SECONDS
        return Step(held, ("payment_intent.amount_capturable_updated",))
    held |= {"status": "succeeded", "amount_received": intent["amount"]}
    return Step(held, ("payment_intent.succeeded",))


def _refused(intent: Json, card: Card, refusal: cards.Refusal, *, kind: str = "card_error") -> Step:
    charge = new_id("ch")
    fields: Json = {"charge": charge, "code": refusal.code}
    if refusal.decline_code is not None:
        fields["decline_code"] = refusal.decline_code
    fields["payment_method"] = {
        "id": card.payment_method,
        "object": "payment_method",
        "type": "card",
        "card": card.details(),
        "livemode": False,
    }
    problem = Problem(402, refusal.message, kind=kind, **fields)
    refused = intent | {
        "status": "requires_payment_method",
        "payment_method": None,
        "next_action": None,
        "latest_charge": charge,
        "last_payment_error": dict(problem.error),
    }
    problem.error["payment_intent"] = public(refused)
    return Step(refused, ("payment_intent.payment_failed",), problem)


def capture(intent: Json, params: Json) -> Step:
    """Take the money that is held, or a part of it; the rest is given back."""
    if intent["status"] != "requires_capture":
        why = "has already been captured" if intent["status"] == "succeeded" else f"has a status of {intent['status']}"
        raise unexpected_state(
            f"This PaymentIntent could not be captured because it {why}. Only a PaymentIntent with one of the following"
            " statuses may be captured: requires_capture.",
            public(intent),
        )
    held: int = intent["amount_capturable"]
    amount: int = params.get("amount_to_capture", held)
    if amount > held:
        raise invalid(
            "The payment could not be captured because the requested capture amount is greater than the amount you can"
            " capture for this charge.",
            param="amount_to_capture",
            code="amount_too_large",
        )
    if amount < 1:
        raise invalid("Invalid positive integer", param="amount_to_capture", code="parameter_invalid_integer")
    taken = intent | {"status": "succeeded", "amount_capturable": 0, "amount_received": amount, "_capture_before": None}
    return Step(taken, ("payment_intent.succeeded",))


def cancel(intent: Json, params: Json, now: int) -> Step:
    """Give up an intent; what is held is given back."""
    reason = params.get("cancellation_reason")
    if reason is not None and reason not in _CANCELLATION_REASONS:
        raise invalid(
            f"Invalid cancellation_reason: must be one of {', '.join(sorted(_CANCELLATION_REASONS))}",
            param="cancellation_reason",
        )
    if intent["status"] not in _CANCELABLE:
        raise unexpected_state(
            f"You cannot cancel this PaymentIntent because it has a status of {intent['status']}. Only a PaymentIntent"
            f" with one of the following statuses may be canceled: {', '.join(_CANCELABLE)}.",
            public(intent),
        )
    return _canceled(intent, reason, now)


def expire(intent: Json, now: int) -> Step:
    """Let an authorisation lapse, as banks do when nobody captures it in time."""
    if intent["status"] != "requires_capture":
        raise unexpected_state("This PaymentIntent holds no authorisation.", public(intent))
    return _canceled(intent, "automatic", now)


def _canceled(intent: Json, reason: str | None, now: int) -> Step:
    given_up = intent | {
        "status": "canceled",
        "canceled_at": now,
        "cancellation_reason": reason,
        "amount_capturable": 0,
        "next_action": None,
        "_capture_before": None,
    }
    return Step(given_up, ("payment_intent.canceled",))


def charge_of(intent: Json) -> Json | None:
    """Return the charge an intent's card got, as the API shows it where it is expanded."""
    if intent["latest_charge"] is None:
        return None
    error: Json | None = intent["last_payment_error"]
    refunded: int = intent.get("_refunded", 0)
    return {
        "id": intent["latest_charge"],
        "object": "charge",
        "amount": intent["amount"],
        "amount_captured": intent["amount_received"],
        "amount_refunded": refunded,
        "captured": intent["status"] == "succeeded",
        "created": intent.get("_charged_at", intent["created"]),
        "currency": intent["currency"],
        "description": intent["description"],
        "failure_code": error["code"] if error else None,
        "failure_message": error["message"] if error else None,
        "livemode": False,
        "metadata": intent["metadata"],
        "paid": error is None,
        "payment_intent": intent["id"],
        "payment_method": intent["payment_method"],
        "refunded": 0 < refunded == intent["amount_received"],
        "status": "failed" if error else "succeeded",
    }


def refund(intent: Json, params: Json, now: int) -> tuple[Json, Json]:
    """Give back what was taken, or a part of it; return the refund and the intent as it is now."""
    if intent["status"] != "succeeded":
        raise invalid(f"This PaymentIntent ({intent['id']}) does not have a successful charge to refund.")
    left = intent["amount_received"] - intent.get("_refunded", 0)
    if left == 0:
        raise invalid(f"Charge {intent['latest_charge']} has already been refunded.", code="charge_already_refunded")
    amount = params.get("amount", left)
    if amount < 1:
        raise invalid("Invalid positive integer", param="amount", code="parameter_invalid_integer")
    if amount > left:
        raise invalid(
            f"Refund amount ({decimal_of(amount)} {intent['currency']}) is greater than unrefunded amount on charge"
            f" ({decimal_of(left)} {intent['currency']})",
            param="amount",
        )
    reason = params.get("reason")
    if reason is not None and reason not in {"duplicate", "fraudulent", "requested_by_customer"}:
        raise invalid("Invalid reason: must be one of duplicate, fraudulent, or requested_by_customer", param="reason")
    made: Json = {
        "id": new_id("re"),
        "object": "refund",
        "amount": amount,
        "balance_transaction": None,
        "charge": intent["latest_charge"],
        "created": now,
        "currency": intent["currency"],
        "metadata": _metadata(params.get("metadata") or {}),
        "payment_intent": intent["id"],
        "reason": reason,
        "receipt_number": None,
        "source_transfer_reversal": None,
        "status": "succeeded",
        "transfer_reversal": None,
    }
    return made, intent | {"_refunded": intent.get("_refunded", 0) + amount}


def confirmation_token(params: Json, now: int) -> Json:
    """Return a confirmation token, as Stripe's page elements make it from what the buyer typed."""
    name = params.get("payment_method")
    if name is None:
        raise invalid("This sandbox makes confirmation tokens from a payment_method", param="payment_method")
    if cards.by_payment_method(name) is None:
        raise missing("PaymentMethod", name, "payment_method")
    return {
        "id": new_id("ctoken"),
        "object": "confirmation_token",
        "created": now,
        "expires_at": now + 12 * 3600,
        "livemode": False,
        "payment_intent": None,
        "payment_method": name,
        "return_url": params.get("return_url"),
        "use_stripe_sdk": True,
    }

"""PaymentIntents: their states, and the rules that lead from one to the next.

    requires_payment_method ─┐            ┌─► requires_action ─┐
                             ├─ confirm ──┤                    ├─► requires_capture ─► succeeded
    requires_confirmation ───┘            └────────────────────┘   (or succeeded at once)
    any of these but succeeded ─► canceled

Source: Stripe documentation, "How PaymentIntents work" and "Place a hold on a payment method".
"""

import re
from secrets import token_hex
from typing import Final, Literal, NoReturn

import stripe.params as sdk
from msgspec import Struct, field

from stripe_sandbox import cards, charges
from stripe_sandbox.cards import Card, Decline
from stripe_sandbox.errors import ApiError, IntentFailed, Json, no_such
from stripe_sandbox.operations import Context, operation
from stripe_sandbox.parameters import Limit, ListParams, Metadata, Params, PositiveCents

AUTHORIZATION_SECONDS: Final = 7 * 24 * 3600

# Currencies whose minor unit is a hundredth and whose minimum charge is 0.50 or less.
# Source: ISO 4217 minor units; Stripe documentation, "Supported currencies".
Currency = Literal["aud", "cad", "chf", "eur", "gbp", "nzd", "sgd", "usd"]

_CENTS_MIN: Final = 50
_CENTS_MAX: Final = 99_999_999
_PATH: Final = "/v1/payment_intents"
_CONFIRMABLE: Final = ("requires_payment_method", "requires_confirmation", "requires_action")
_NOT_AUTHENTICATED: Final = Decline(
    "payment_intent_authentication_failure",
    None,
    "We are unable to authenticate your payment method. Please choose a different payment method and try again.",
)
# A part of a query such as `metadata['order_id']:'…' AND status:'requires_capture'`.
_CLAUSE: Final = re.compile(r"\s*(?:metadata\['([^']+)'\]|status)\s*:\s*'([^']*)'\s*")


class AutomaticPaymentMethods(Struct, forbid_unknown_fields=True):
    enabled: bool = True
    allow_redirects: Literal["always", "never"] = "always"


class CardToken(Struct, forbid_unknown_fields=True):
    token: str


class NewPaymentMethod(Struct, forbid_unknown_fields=True):
    type: Literal["card"]
    card: CardToken  # left out of the SDK's types, because it could hold a card number


class ConfirmParams(Params):
    payment_method: str | None = None
    payment_method_data: NewPaymentMethod | None = None
    confirmation_token: str | None = None
    return_url: str | None = None
    use_stripe_sdk: bool = False


class NewIntentParams(ConfirmParams, kw_only=True):
    amount: int
    currency: Currency
    automatic_payment_methods: AutomaticPaymentMethods = field(default_factory=AutomaticPaymentMethods)
    capture_method: Literal["automatic", "automatic_async", "manual"] = "automatic_async"
    confirm: bool = False
    description: str | None = None
    metadata: Metadata = field(default_factory=dict)


class CaptureParams(Params):
    amount_to_capture: PositiveCents | None = None


class CancelParams(Params):
    cancellation_reason: Literal["abandoned", "duplicate", "fraudulent", "requested_by_customer"] | None = None


class SearchParams(Params):
    query: str
    limit: Limit = 10
    page: str | None = None


@operation("POST", _PATH, sdk.PaymentIntentCreateParams)
def create_intent(context: Context, params: NewIntentParams) -> Json:
    if params.amount < _CENTS_MIN:
        message = f"Amount must be at least {_CENTS_MIN} cents"
        raise ApiError(message, param="amount", code="amount_too_small")
    if params.amount > _CENTS_MAX:
        message = f"Amount must be no more than {_CENTS_MAX} cents"
        raise ApiError(message, param="amount", code="amount_too_large")
    if not params.automatic_payment_methods.enabled:
        raise ApiError("This sandbox only offers automatic payment methods", param="automatic_payment_methods[enabled]")
    allow_redirects = params.automatic_payment_methods.allow_redirects
    intent = context.new(
        "payment_intent",
        "pi",
        amount=params.amount,
        automatic_payment_methods={"allow_redirects": allow_redirects, "enabled": True},
        capture_method=params.capture_method,
        currency=params.currency,
        description=params.description,
        metadata={name: value for name, value in params.metadata.items() if value},
    )
    intent["client_secret"] = f"{intent['id']}_secret_{token_hex(12)}"
    if params.confirm:
        return _confirm(context, params, intent)
    if (card := _named_card(params)) is not None:
        intent |= {"payment_method": card.payment_method, "status": "requires_confirmation"}
    context.store.save(intent)
    return intent


@operation("GET", _PATH, sdk.PaymentIntentListParams)
def list_intents(context: Context, params: ListParams) -> Json:
    return context.list("payment_intent", params)


@operation("GET", _PATH + "/search", sdk.PaymentIntentSearchParams)
def search_intents(context: Context, params: SearchParams) -> Json:
    found_by: dict[str, str] = {}
    for clause in params.query.split(" AND "):
        if (parsed := _CLAUSE.fullmatch(clause)) is None:
            raise ApiError("We were unable to parse your search query.", param="query")
        found_by[f"metadata.{parsed[1]}" if parsed[1] else "status"] = parsed[2]
    page = ListParams(limit=params.limit, starting_after=params.page)
    data, has_more = context.store.page("payment_intent", page, found_by)
    next_page = data[-1]["id"] if has_more else None
    url = f"{_PATH}/search"
    return {"object": "search_result", "data": data, "has_more": has_more, "next_page": next_page, "url": url}


@operation("GET", _PATH + "/{id}", sdk.PaymentIntentRetrieveParams)
def retrieve_intent(context: Context, _params: Params) -> Json:
    return _load(context)


@operation("POST", _PATH + "/{id}/confirm", sdk.PaymentIntentConfirmParams)
def confirm_intent(context: Context, params: ConfirmParams) -> Json:
    return _confirm(context, params, _load(context, "confirm", *_CONFIRMABLE))


@operation("POST", _PATH + "/{id}/capture", sdk.PaymentIntentCaptureParams)
def capture_intent(context: Context, params: CaptureParams) -> Json:
    intent = _load(context, "capture", "requires_capture")
    amount = params.amount_to_capture or intent["amount_capturable"]
    if amount > intent["amount_capturable"]:
        message = "The requested capture amount is greater than the amount you can capture for this charge."
        raise ApiError(message, param="amount_to_capture", code="amount_too_large")
    charge = context.load("charge", intent["latest_charge"], "charge")
    return _captured(context, intent, charge, amount)


@operation("POST", _PATH + "/{id}/cancel", sdk.PaymentIntentCancelParams)
def cancel_intent(context: Context, params: CancelParams) -> Json:
    intent = _load(context, "cancel", *_CONFIRMABLE, "requires_capture", "processing")
    return _canceled(context, intent, params.cancellation_reason)


def expire(context: Context, _params: Params) -> Json:
    """Let an authorization expire, as banks do when nobody captures it in time; raises ApiError."""
    return _canceled(context, _load(context, "expire", "requires_capture"), "automatic")


def approve(context: Context, _params: Params) -> Json:
    """Continue after the buyer approved the payment at the bank; raises ApiError."""
    return _authorized(context, _load(context, "authenticate", "requires_action"))


def refuse(context: Context, _params: Params) -> NoReturn:
    """Fail because the buyer did not approve the payment at the bank; raises ApiError."""
    _decline(context, _load(context, "authenticate", "requires_action"), _NOT_AUTHENTICATED, "invalid_request_error")


def _named_card(params: ConfirmParams) -> Card | None:
    """Return the card that a request names, if it names one; raises ApiError."""
    if (name := params.payment_method) is not None:
        if name not in cards.BY_PAYMENT_METHOD:
            raise no_such("PaymentMethod", name, "payment_method")
        return cards.BY_PAYMENT_METHOD[name]
    if (data := params.payment_method_data) is not None:
        if data.card.token not in cards.BY_TOKEN:
            raise no_such("token", data.card.token, "payment_method_data[card][token]")
        return cards.BY_TOKEN[data.card.token]
    return None


def _confirm(context: Context, params: ConfirmParams, intent: Json) -> Json:
    card, return_url = _named_card(params), params.return_url
    if params.confirmation_token is not None:
        card, kept_url = cards.use_confirmation_token(context, params.confirmation_token, intent["id"])
        return_url = return_url or kept_url
    card = card or cards.BY_PAYMENT_METHOD.get(intent["payment_method"])
    if card is None:
        raise _unexpected_state(intent, "confirm", "it's missing a payment method")
    if return_url is None and intent["automatic_payment_methods"]["allow_redirects"] == "always":
        never = "set `automatic_payment_methods[allow_redirects]` to `never`"
        raise ApiError(f"Some payment methods redirect your customer: provide a `return_url`, or {never}.")
    intent |= {"payment_method": card.payment_method, "last_payment_error": None, "next_action": None}
    if card.decline is not None:
        _decline(context, intent, card.decline, "card_error")
    if not card.requires_authentication:
        return _authorized(context, intent)
    page = f"{context.base_url}/sandbox/authenticate/{intent['id']}?client_secret={intent['client_secret']}"
    if return_url is not None and not params.use_stripe_sdk:
        action: Json = {"type": "redirect_to_url", "redirect_to_url": {"return_url": return_url, "url": page}}
    else:
        action = {"type": "use_stripe_sdk", "use_stripe_sdk": {"type": "three_d_secure_redirect", "stripe_js": page}}
    intent |= {"status": "requires_action", "next_action": action}
    return _saved(context, intent, "payment_intent.requires_action")


def _authorized(context: Context, intent: Json) -> Json:
    """Hold the money, and capture it at once unless that is left to the caller."""
    charge = charges.new(context, intent)
    intent |= {"next_action": None, "latest_charge": charge["id"]}
    if intent["capture_method"] != "manual":
        return _captured(context, intent, charge, intent["amount"])
    context.store.save(charge)
    intent |= {"status": "requires_capture", "amount_capturable": intent["amount"]}
    return _saved(context, intent, "payment_intent.amount_capturable_updated")


def _captured(context: Context, intent: Json, charge: Json, amount: int) -> Json:
    """Take the amount; the rest of what is held is released."""
    context.store.save(charge | {"amount_captured": amount, "captured": True})
    intent |= {"status": "succeeded", "amount_capturable": 0, "amount_received": amount}
    return _saved(context, intent, "payment_intent.succeeded")


def _canceled(context: Context, intent: Json, reason: str | None) -> Json:
    """Release what is held; nothing can be captured afterwards."""
    intent |= {"status": "canceled", "canceled_at": context.now, "cancellation_reason": reason}
    intent |= {"amount_capturable": 0, "next_action": None}
    return _saved(context, intent, "payment_intent.canceled")


def _decline(context: Context, intent: Json, decline: Decline, error_type: str) -> NoReturn:
    """Record the failed charge; the PaymentIntent can be confirmed again with another card."""
    charge = charges.new(context, intent, decline)
    payment_method = cards.BY_PAYMENT_METHOD[intent["payment_method"]].as_payment_method(context)
    about = {"charge": charge["id"], "decline_code": decline.decline_code, "payment_method": payment_method}
    failed = IntentFailed(decline.message, 402, type_=error_type, code=decline.code, **about)
    intent |= {"status": "requires_payment_method", "payment_method": None, "next_action": None}
    intent |= {"latest_charge": charge["id"], "last_payment_error": failed.error.copy()}
    context.store.save(charge)
    failed.error["payment_intent"] = _saved(context, intent, "payment_intent.payment_failed")
    raise failed


def _saved(context: Context, intent: Json, event_type: str) -> Json:
    context.store.save(intent)
    context.publish(event_type, intent)
    return intent


def _load(context: Context, verb: str = "", *statuses: str) -> Json:
    """Return the PaymentIntent of the request, which must have one of the statuses, if any; raises ApiError."""
    intent = context.load("payment_intent", context.object_id, "intent")
    if statuses and intent["status"] not in statuses:
        raise _unexpected_state(intent, verb, f"it has a status of {intent['status']}")
    return intent


def _unexpected_state(intent: Json, verb: str, why: str) -> ApiError:
    message = f"You cannot {verb} this PaymentIntent because {why}."
    return ApiError(message, code="payment_intent_unexpected_state", payment_intent=intent)

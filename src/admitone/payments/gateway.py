"""Requests to Stripe, or to the sandbox, which only has another address.

The methods about a payment return a ProviderResult and raise nothing: without a usable response it is `Unknown`.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Annotated, Any, Final, TypeVar
from uuid import UUID

import httpx
import msgspec
import stripe

from admitone.kernel import clock
from admitone.payments.model import (
    NOT_COMPLETED,
    TOKEN_INVALID,
    Authorized,
    Canceled,
    Captured,
    CaptureRefused,
    Declined,
    IntentNotFound,
    Payment,
    ProviderResult,
    Refunded,
    RequiresAction,
    Unknown,
)

log = logging.getLogger(__name__)

# Otherwise the SDK writes an id into the home directory and reports the duration of requests to Stripe.
stripe.enable_telemetry = False

# The limits of a whole operation, its retries included. A buyer waits for an authorization.
_AUTHORIZE_SECONDS: Final = 9.0
_OPERATION_SECONDS: Final = 15.0
_SEARCH_SECONDS: Final = 5.0
# The limits of each request. A request that is retried keeps its idempotency key, so that it takes effect once.
_TIMEOUT: Final = httpx.Timeout(6.0, connect=2.0)
_RETRIES: Final = 2
_PAGE: Final = 100
# How long after the beginning of a payment Stripe may create its intent.
_CREATED_WITHIN: Final = timedelta(minutes=2)
# How far the database's clock, by which a payment's age is known, may have been set meanwhile.
_CLOCK_CHANGE_MAX: Final = timedelta(minutes=20)
_LOOKUPS_MAX: Final = 1000
_SIGNATURE_SECONDS_MAX: Final = 300

_INTENTS: Final = "/v1/payment_intents"
_UNKNOWN_OBJECT: Final = "resource_missing"
_PROVIDER_REFUSED: Final = "The payment provider refused the request"
_REASON_CHARACTERS_MAX: Final = 300


# Visible ASCII, as all ids of Stripe are: it becomes a key of ours, and PostgreSQL cannot store NUL.
StripeId = Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,255}\Z")]

# Stripe refused the request itself. Only the authorization of a card can be refused for good that way.
_REFUSED: Final = (stripe.CardError, stripe.InvalidRequestError)

# The text is not JSON, lacks what it must have, or is nested too deeply.
_MALFORMED: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

T = TypeVar("T", bound=msgspec.Struct)


class ForgedWebhook(Exception):
    """The webhook was not signed with our secret, or too long ago"""


class WrongAccount(Exception):
    """The key is of another account or mode of Stripe than the payments of this database"""


# There was no response, or none that Stripe sends, or none that may be used.
NO_RESPONSE: Final = (TimeoutError, stripe.StripeError, msgspec.MsgspecError, WrongAccount)

BindAccount = Callable[[str], Awaitable[str]]
"""Returns the account that this database belongs to, which is the given one if it belongs to none."""


class _Account(msgspec.Struct):
    id: str


class _Refund(msgspec.Struct):
    id: str


class _Charge(msgspec.Struct):
    amount_refunded: int = 0


class _Redirect(msgspec.Struct):
    url: str | None = None


class _NextAction(msgspec.Struct):
    type: str
    redirect_to_url: _Redirect | None = None


class _Error(msgspec.Struct):
    code: str | None = None
    decline_code: str | None = None
    message: str | None = None


class PaymentIntent(msgspec.Struct, kw_only=True):
    """The fields of a PaymentIntent that are used, in a response, a list or a webhook."""

    id: str
    amount: int
    currency: str
    created: int
    livemode: bool
    status: str
    metadata: dict[str, str] = {}
    amount_received: int = 0
    client_secret: str | None = None
    latest_charge: _Charge | str | None = None
    last_payment_error: _Error | None = None
    next_action: _NextAction | None = None

    @property
    def payment_id(self) -> UUID | None:
        """The id of the payment it was created for; None if it was not created by an installation of AdmitOne."""
        return self._named("payment_id")

    @property
    def order_id(self) -> UUID | None:
        """The id of the order it was created for, like `payment_id`."""
        return self._named("order_id")

    def _named(self, name: str) -> UUID | None:
        try:
            return UUID(self.metadata.get(name, ""))
        except ValueError:
            return None

    @property
    def is_over(self) -> bool:
        """Whether nothing is held for it, and nothing that was taken is kept."""
        return isinstance(self.result, (Canceled, Refunded))

    @property
    def result(self) -> ProviderResult:
        """What the intent's status means for its payment."""
        match self.status:
            case "requires_capture":
                return Authorized(self.id)
            case "succeeded":
                refunded = self.latest_charge.amount_refunded if isinstance(self.latest_charge, _Charge) else 0
                return Refunded(self.id) if 0 < self.amount_received <= refunded else Captured(self.id, refunded)
            case "canceled":
                return Canceled(self.id)
            case "requires_action":
                redirect = self.next_action.redirect_to_url if self.next_action else None
                return RequiresAction(self.id, self.client_secret or "", redirect.url if redirect else None)
            case "requires_payment_method" | "requires_confirmation":
                error = self.last_payment_error or _Error()
                return Declined(_code(error), _reason(error.message), self.id)
            case _:
                return Unknown(f"the intent is {self.status}")


class _EventObject(msgspec.Struct):
    """The fields of a webhook event's object that identify the PaymentIntent."""

    id: StripeId
    object: str
    payment_intent: StripeId | None = None


class _EventContent(msgspec.Struct):
    object: msgspec.Raw


class WebhookEvent(msgspec.Struct, dict=True):
    """An event that Stripe sends to the webhook endpoint."""

    id: StripeId
    type: str
    livemode: bool
    data: _EventContent

    @cached_property
    def intent_id(self) -> str | None:
        """The PaymentIntent that the event is about, if it is about one."""
        try:
            subject = msgspec.json.decode(self.data.object, type=_EventObject)
        except _MALFORMED:
            return None
        return subject.id if subject.object == "payment_intent" else subject.payment_intent

    @cached_property
    def intent(self) -> PaymentIntent | None:
        """The PaymentIntent at the time of the event, if the event contains it."""
        if not self.type.startswith("payment_intent."):
            return None
        try:
            return msgspec.json.decode(self.data.object, type=PaymentIntent)
        except _MALFORMED:
            return None


class _PaymentIntents(msgspec.Struct):
    """A page of a list or of search results."""

    data: list[PaymentIntent]
    has_more: bool = False


@dataclass
class _Lookup:
    """How far the list was read in search of one payment: its period, and the last intent that was read."""

    since: datetime
    until: datetime
    after: str | None = None


@dataclass
class Gateway:
    """The requests to Stripe that this service makes, to the account that its payments belong to and to no other."""

    client: stripe.StripeClient
    installation: UUID
    livemode: bool
    webhook_secrets: Sequence[str]
    bind_account: BindAccount
    _is_bound: bool = False
    # What Stripe's clock shows more than ours, as of the last response.
    _clock_ahead: timedelta = timedelta(0)
    _lookups: dict[UUID, _Lookup] = field(default_factory=dict)

    def now(self) -> datetime:
        """Return the time by Stripe's clock, which dates its objects: ours may be minutes off."""
        return clock.now() + self._clock_ahead

    async def check_account(self) -> None:
        """Check once that the key is of the account and mode in which the payments of this database were made.

        With another key, payments would be unknown and the list empty. Every request waits for this check, because
        Stripe may be unreachable at start. Raises one of NO_RESPONSE.
        """
        if self._is_bound:
            return
        account = await self._request(_Account, "get", "/v1/account", {})
        ours = f"{account.id} ({'live' if self.livemode else 'test'} mode)"
        if (bound := await self.bind_account(ours)) != ours:
            raise WrongAccount(
                f"STRIPE_SECRET_KEY is of the account {ours}, but the payments of this database are in {bound}: set a"
                " key of that account, or run `admitone adopt --new-account` to continue with the account of the key"
            )
        self._is_bound = True

    async def authorize(self, payment: Payment, return_url: str) -> ProviderResult:
        """Hold the money. Repeated for the same payment, it returns the first result and holds nothing twice."""
        params = {
            "amount": payment.amount_cents,
            "currency": payment.currency,
            "capture_method": "manual",
            "confirm": True,
            "automatic_payment_methods": {"enabled": True},
            "return_url": return_url,
            "description": f"Order {payment.order_id}",
            "metadata": {
                "installation": str(self.installation),
                "order_id": str(payment.order_id),
                "payment_id": str(payment.id),
                "attempt": str(payment.attempt),
            },
            **_payment_method(payment.token),
        }
        request = self._send(PaymentIntent, "post", _INTENTS, params, payment.provider_key)
        try:
            return await self._result(payment, request, _AUTHORIZE_SECONDS)
        except _REFUSED as error:
            return _declined(payment, error)

    async def retrieve(self, payment: Payment) -> ProviderResult:
        """Return the present state of a payment whose id at Stripe is known."""
        path = f"{_INTENTS}/{_stripe_id(payment)}"
        try:
            return await self._result(payment, self._send(PaymentIntent, "get", path, {"expand": ["latest_charge"]}))
        except _REFUSED as error:
            # An id that Stripe gave us and does not know: the key is of another account or mode. It decides nothing.
            log.error("Stripe refuses to show a payment", extra={"payment": payment.id, "error": str(error)})  # noqa: TRY400
            return _unknown(error)

    async def find(self, payment: Payment, age: timedelta) -> ProviderResult:
        """Return the present state of a payment of this age whose id at Stripe is not known.

        The search is fast, but it may lag behind or be unavailable. The list decides: IntentNotFound if it has none.
        """
        query = {"query": f"metadata['payment_id']:'{payment.id}'", "limit": 1}
        try:
            async with asyncio.timeout(_SEARCH_SECONDS):
                found = await self._send(_PaymentIntents, "get", f"{_INTENTS}/search", query)
        except NO_RESPONSE as error:
            log.warning("the search failed, so the list is read", extra={"payment": payment.id, "error": repr(error)})
        else:
            for intent in found.data:
                return self._result_of(payment, intent)
        return await self._find_in_list(payment, age)

    async def _find_in_list(self, payment: Payment, age: timedelta) -> ProviderResult:
        """Read the list of the time when the payment began; without a response, the next call reads on from there."""
        began = self.now() - age
        period = (began - _CLOCK_CHANGE_MAX, began + _CREATED_WITHIN + _CLOCK_CHANGE_MAX)
        lookup = self._lookups.pop(payment.id, None) or _Lookup(*period)
        try:
            async with asyncio.timeout(_OPERATION_SECONDS - _SEARCH_SECONDS):
                while True:
                    intents, lookup.after = await self.intents(lookup.since, lookup.until, lookup.after)
                    for intent in intents:
                        if intent.payment_id == payment.id:
                            return self._result_of(payment, intent)
                    if lookup.after is None:
                        return IntentNotFound()
        except NO_RESPONSE as error:
            # Newer intents than those read may appear for a while: then it must be read again.
            if age > _CREATED_WITHIN + _CLOCK_CHANGE_MAX and len(self._lookups) < _LOOKUPS_MAX:
                self._lookups[payment.id] = lookup
            return _unknown(error)

    async def capture(self, payment: Payment) -> ProviderResult:
        """Take the money that is held."""
        try:
            return await self._change(payment, "capture")
        except _REFUSED as error:
            result = await self._why_refused(payment, error)
            # Not if Stripe does not know the intent by this key: that says nothing about the intent.
            is_refused = isinstance(result, Authorized) and error.code != _UNKNOWN_OBJECT
            return CaptureRefused(_stripe_id(payment), error.code or "refused") if is_refused else result

    async def void(self, payment: Payment) -> ProviderResult:
        """Release the money that is held."""
        try:
            return await self._change(payment, "cancel")
        except _REFUSED as error:
            return await self._why_refused(payment, error)

    async def _change(self, payment: Payment, verb: str) -> ProviderResult:
        """Request a change that Stripe makes at most once; raises one of _REFUSED.

        Each try has its own key: under the same key Stripe would repeat a 500 for a day.
        """
        path, key = f"{_INTENTS}/{_stripe_id(payment)}/{verb}", f"{verb}:{payment.id}:{payment.tries}"
        return await self._result(payment, self._send(PaymentIntent, "post", path, {}, key))

    async def _why_refused(self, payment: Payment, error: stripe.StripeError) -> ProviderResult:
        log.info("a request was refused; the intent shows why", extra={"payment": payment.id, "code": error.code})
        return await self.retrieve(payment)

    async def refund(self, payment: Payment) -> ProviderResult:
        """Return all money that was taken, or what is left of it."""
        params = {"payment_intent": _stripe_id(payment)}
        try:
            async with asyncio.timeout(_OPERATION_SECONDS):
                await self._send(_Refund, "post", "/v1/refunds", params, f"refund:{payment.id}:{payment.tries}")
        except stripe.InvalidRequestError as error:
            return await self._why_refused(payment, error)
        except NO_RESPONSE as error:
            return _unknown(error)
        return await self.retrieve(payment)

    async def intents(
        self, since: datetime, until: datetime, after: str | None = None
    ) -> tuple[list[PaymentIntent], str | None]:
        """Return this installation's intents on one page of the list, newest first, and where the next page begins.

        The list has the intents that were created in a period by Stripe's clock. Raises one of NO_RESPONSE.
        """
        params: dict[str, Any] = {
            "limit": _PAGE,
            "created": {"gte": int(since.timestamp()), "lte": int(until.timestamp())},
        }
        if after is not None:
            params["starting_after"] = after
        async with asyncio.timeout(_OPERATION_SECONDS):
            page = await self._send(_PaymentIntents, "get", _INTENTS, params)
        ours = [each for each in page.data if each.metadata.get("installation") == str(self.installation)]
        return ours, page.data[-1].id if page.has_more and page.data else None

    async def intent(self, stripe_id: str) -> PaymentIntent:
        """Return the intent with this id at Stripe; raises one of NO_RESPONSE."""
        async with asyncio.timeout(_OPERATION_SECONDS):
            return await self._send(PaymentIntent, "get", f"{_INTENTS}/{stripe_id}", {"expand": ["latest_charge"]})

    async def cancel_intent(self, intent: PaymentIntent) -> None:
        """Release what an intent holds that belongs to no payment; raises one of NO_RESPONSE."""
        key = f"close:{intent.id}:{intent.status}"
        await self._send(PaymentIntent, "post", f"{_INTENTS}/{intent.id}/cancel", {}, key)

    def parse_webhook(self, body: bytes, signature: str | None) -> WebhookEvent:
        """Return a webhook's event; raises ForgedWebhook. Two secrets are valid while one replaces the other."""
        if signature is None or not signature.isascii():
            raise ForgedWebhook  # the SDK compares in constant time, which Python does for ASCII only
        for secret in self.webhook_secrets:
            try:
                stripe.WebhookSignature.verify_header(body, signature, secret, _SIGNATURE_SECONDS_MAX)
                return msgspec.json.decode(body, type=WebhookEvent)
            except stripe.SignatureVerificationError:
                continue
            except _MALFORMED as error:
                raise ForgedWebhook from error
        raise ForgedWebhook

    async def _send(
        self, response_type: type[T], method: str, path: str, params: dict[str, Any], key: str | None = None
    ) -> T:
        """Send one request to the account that this database belongs to, and parse its response."""
        await self.check_account()
        return await self._request(response_type, method, path, params, key)

    async def _request(
        self, response_type: type[T], method: str, path: str, params: dict[str, Any], key: str | None = None
    ) -> T:
        """Send one request through the SDK, which authenticates, encodes, retries and raises; parse its response.

        The SDK would make an object of every value in a response of which a few are used.
        """
        options = {} if key is None else {"idempotency_key": key}
        try:
            response: Any = await self.client.raw_request_async(method, path, **params, **options)
        except (AttributeError, TypeError, ValueError) as error:
            # The SDK cannot read an error that is not Stripe's, such as {"error": "bad gateway"} of a proxy.
            raise stripe.APIError("the response is not Stripe's") from error
        if (date := _date(response.headers)) is not None:
            self._clock_ahead = date - clock.now()
        return msgspec.json.decode(response.body, type=response_type)

    async def _result(
        self, payment: Payment, request: Awaitable[PaymentIntent], seconds: float = _OPERATION_SECONDS
    ) -> ProviderResult:
        """Return what the response to a request means for a payment; raises one of _REFUSED."""
        try:
            async with asyncio.timeout(seconds):
                return self._result_of(payment, await request)
        except _REFUSED:
            raise
        except stripe.IdempotencyError as error:
            log.error("an idempotency key was used for something else", extra={"payment": payment.id})  # noqa: TRY400
            return _unknown(error)
        except (stripe.AuthenticationError, stripe.PermissionError) as error:
            log.error("Stripe does not accept our key", extra={"error": str(error)})  # noqa: TRY400
            return _unknown(error)
        except NO_RESPONSE as error:
            return _unknown(error)

    def mismatch(self, payment: Payment, intent: PaymentIntent) -> str | None:
        """Return in what an intent differs from a payment, or None if it is the payment's."""
        pairs: dict[str, tuple[object, object]] = {
            "amount": (intent.amount, payment.amount_cents),
            "currency": (intent.currency, payment.currency),
            "order": (intent.metadata.get("order_id"), str(payment.order_id)),
            "payment": (intent.metadata.get("payment_id"), str(payment.id)),
            "mode": (intent.livemode, self.livemode),
            "installation": (intent.metadata.get("installation"), str(self.installation)),
        }
        return next((f"{name} differs" for name, (theirs, ours) in pairs.items() if theirs != ours), None)

    def _result_of(self, payment: Payment, intent: PaymentIntent) -> ProviderResult:
        if (mismatch := self.mismatch(payment, intent)) is not None:
            log.error("an intent is not the payment's", extra={"payment": payment.id, "mismatch": mismatch})
            return Unknown(mismatch)
        return intent.result


@asynccontextmanager
async def open_gateway(
    url: str, key: str, webhook_secret: str, installation: UUID, bind_account: BindAccount
) -> AsyncIterator[Gateway]:
    """Connect to Stripe, or to `url` if it is given. Several webhook secrets are separated by commas.

    Connections are kept and reused until the block ends.
    """
    transport = stripe.HTTPXClient(timeout=_TIMEOUT)
    client = stripe.StripeClient(
        key, base_addresses={"api": url} if url else {}, http_client=transport, max_network_retries=_RETRIES
    )
    try:
        livemode = key.startswith(("sk_live_", "rk_live_"))
        yield Gateway(client, installation, livemode, webhook_secret.split(","), bind_account)
    finally:
        await transport.close_async()  # type: ignore[no-untyped-call]  # the SDK does not annotate it


def _date(headers: Mapping[str, str]) -> datetime | None:
    """Return the date of a response."""
    try:
        return parsedate_to_datetime(httpx.Headers(dict(headers))["date"])
    except (KeyError, ValueError):
        return None


def _stripe_id(payment: Payment) -> str:
    assert payment.stripe_id is not None, "Stripe's id of this payment is not known yet"
    return payment.stripe_id


def _payment_method(token: str) -> dict[str, Any]:
    """Return the parameters for a card token, a payment method, or a confirmation token of the Payment Element."""
    if token.startswith("tok_"):
        return {"payment_method_data": {"type": "card", "card": {"token": token}}}
    if token.startswith("ctoken_"):
        return {"confirmation_token": token}
    return {"payment_method": token}


def _declined(payment: Payment, error: stripe.CardError | stripe.InvalidRequestError) -> ProviderResult:
    """Return what a refused authorization means: the bank or Stripe refused the card, or the token names none.

    Any other refusal is about the request or the account. It says nothing about the card, and so decides nothing.
    """
    if isinstance(error, stripe.CardError):
        body: Any = error.json_body
        details = body["error"]
        intent = details.get("payment_intent") or {}
        decline = details.get("decline_code")
        code = decline if decline and decline != "generic_decline" else error.code
        return Declined(code or "card_declined", _reason(error.user_message), intent.get("id"))
    if any(part in (error.param or "") for part in ("payment_method", "confirmation_token", "token")):
        return Declined(TOKEN_INVALID, _PROVIDER_REFUSED)
    facts = {"payment": payment.id, "code": error.code, "error": str(error)}
    log.error("Stripe refused to authorize a payment, and not for its card", extra=facts)
    return _unknown(error)


def _unknown(error: Exception) -> Unknown:
    log.warning("there is no usable response from Stripe", extra={"error": f"{type(error).__name__}: {error}"})
    return Unknown(type(error).__name__)


def _code(error: _Error) -> str:
    return error.decline_code or error.code or "not_completed"


def _reason(message: str | None) -> str:
    return (message or NOT_COMPLETED)[:_REASON_CHARACTERS_MAX]

"""The one door to Stripe, and to the sandbox, which only has another address.

Every method answers with a finding and raises nothing: what went wrong on the way is `Unknown`, to be asked again.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, TypeVar
from uuid import UUID

import httpx
import msgspec
import stripe

from admitone.payments.model import (
    TOKEN_INVALID,
    Absent,
    Authorized,
    Declined,
    Finding,
    GivenBack,
    NeedsAction,
    Payment,
    Released,
    Taken,
    Unknown,
)

log = logging.getLogger(__name__)

# Otherwise the SDK writes an id into the home folder and reports how long requests took.
stripe.enable_telemetry = False

# A buyer waits for this, retries included; whoever calls us waits a little longer.
_AUTHORISE_SECONDS: Final = 9.0
_ASK_SECONDS: Final = 15.0
_RETRIES: Final = 2
_TIMEOUT: Final = httpx.Timeout(6.0, connect=2.0)
_PAGE: Final = 100
# Our clock and Stripe's may differ by this much.
CLOCKS_DIFFER: Final = timedelta(seconds=60)
_CALL_TAKES: Final = timedelta(minutes=2)
_SIGNATURE_SECONDS_MAX: Final = 300

_INTENTS: Final = "/v1/payment_intents"
_PROVIDER_REFUSED: Final = "The payment provider refused the request"
_REASON_CHARACTERS_MAX: Final = 300


# Visible ASCII, as every id of Stripe's is: it becomes a key of ours, and PostgreSQL keeps no NUL.
StripeId = Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,255}\Z")]

# Stripe is away, or what came is no answer of Stripe's.
_NO_ANSWER: Final = (TimeoutError, stripe.StripeError, msgspec.MsgspecError)

# What came cannot be read: it is no JSON, not what it should be, or nested without end.
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

A = TypeVar("A", bound=msgspec.Struct)


class Forged(Exception):
    """The webhook was not signed with our secret, or too long ago"""


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


class Intent(msgspec.Struct, kw_only=True):
    """What we read of a PaymentIntent, in an answer, a list or a webhook."""

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

    def finding(self) -> Finding:
        """Return what the intent's status says."""
        match self.status:
            case "requires_capture":
                return Authorized(self.id)
            case "succeeded":
                charge = self.latest_charge
                if isinstance(charge, _Charge) and 0 < self.amount_received <= charge.amount_refunded:
                    return GivenBack(self.id)
                return Taken(self.id)
            case "canceled":
                return Released(self.id)
            case "requires_action":
                redirect = self.next_action.redirect_to_url if self.next_action else None
                return NeedsAction(self.id, self.client_secret or "", redirect.url if redirect else None)
            case "requires_payment_method" | "requires_confirmation":
                error = self.last_payment_error or _Error()
                return Declined(_code(error), _reason(error.message), self.id)
            case _:
                return Unknown(f"the intent is {self.status}")

    def mismatch(self, payment: Payment, *, livemode: bool) -> str | None:
        """Return why this intent cannot be the payment's, or None."""
        pairs = {
            "amount": (self.amount, payment.amount_cents),
            "currency": (self.currency, payment.currency),
            "order": (self.metadata.get("order_id"), str(payment.order_id)),
            "payment": (self.metadata.get("payment_id"), str(payment.id)),
            "mode": (self.livemode, livemode),
        }
        return next((f"another {name}" for name, (theirs, ours) in pairs.items() if theirs != ours), None)


class _Subject(msgspec.Struct):
    """The part of a webhook's object that tells what it is about."""

    id: StripeId
    object: str
    payment_intent: StripeId | None = None


class _EventHead(msgspec.Struct):
    object: msgspec.Raw


class Told(msgspec.Struct):
    """A webhook's event."""

    id: StripeId
    type: str
    livemode: bool
    data: _EventHead

    @property
    def intent_id(self) -> str | None:
        """The PaymentIntent that the event is about, if it is about one."""
        try:
            subject = msgspec.json.decode(self.data.object, type=_Subject)
        except _UNREADABLE:
            return None
        return subject.id if subject.object == "payment_intent" else subject.payment_intent

    @property
    def intent(self) -> Intent | None:
        """The PaymentIntent as it was, where the event carries it."""
        if not self.type.startswith("payment_intent."):
            return None
        try:
            return msgspec.json.decode(self.data.object, type=Intent)
        except _UNREADABLE:
            return None


class _Intents(msgspec.Struct):
    """A page of a list, or of what a search found."""

    data: list[Intent]
    has_more: bool = False


@dataclass(frozen=True)
class Gateway:
    """Stripe, as this service uses it."""

    client: stripe.StripeClient
    installation: UUID
    livemode: bool
    webhook_secrets: Sequence[str]

    async def authorise(self, payment: Payment, return_url: str) -> Finding:
        """Hold the money. Asked again for the same payment it gives the first answer again and holds nothing twice."""
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
            **_paying_with(payment.token),
        }
        asking = self._ask(Intent, "post", _INTENTS, params, payment.provider_key)
        return await self._about(payment, asking, _AUTHORISE_SECONDS)

    async def read(self, payment: Payment) -> Finding:
        """Return what Stripe says about a payment whose id there is known."""
        path = f"{_INTENTS}/{_known(payment)}"
        return await self._about(payment, self._ask(Intent, "get", path, {"expand": ["latest_charge"]}))

    async def find(self, payment: Payment) -> Finding:
        """Look for a payment whose id at Stripe is not known; `Absent` when there is none of ours.

        The search may lag behind; the list does not, so it has the last word.
        """
        query = {"query": f"metadata['payment_id']:'{payment.id}'", "limit": 1}
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                found = await self._ask(_Intents, "get", f"{_INTENTS}/search", query)
                for intent in found.data:
                    return self._finding(payment, intent)
                until = payment.created_at + _CALL_TAKES + CLOCKS_DIFFER
                async for intent in self.intents(payment.created_at - CLOCKS_DIFFER, until):
                    if intent.metadata.get("payment_id") == str(payment.id):
                        return self._finding(payment, intent)
        except _NO_ANSWER as error:
            return _unknown(error)
        return Absent()

    async def capture(self, payment: Payment) -> Finding:
        """Take the money that is held."""
        return await self._change(payment, "capture")

    async def void(self, payment: Payment) -> Finding:
        """Give back what is held."""
        return await self._change(payment, "cancel")

    async def _change(self, payment: Payment, verb: str) -> Finding:
        """Ask for a change that Stripe makes once at most; where it refuses, the intent itself says why.

        Each try has a key of its own: under the same key a 500 would be repeated for a day.
        """
        path, key = f"{_INTENTS}/{_known(payment)}/{verb}", f"{verb}:{payment.id}:{payment.tries}"
        finding = await self._about(payment, self._ask(Intent, "post", path, {}, key))
        return await self.read(payment) if isinstance(finding, Declined) else finding

    async def refund(self, payment: Payment) -> Finding:
        """Give back all that was taken."""
        params = {"payment_intent": _known(payment), "amount": payment.amount_cents}
        asking = self._ask(_Refund, "post", "/v1/refunds", params, f"refund:{payment.id}:{payment.tries}")
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                await asking
        except stripe.InvalidRequestError as error:
            log.info("a refund was refused; the intent says why", extra={"payment": payment.id, "code": error.code})
        except _NO_ANSWER as error:
            return _unknown(error)
        return await self.read(payment)

    async def intents(self, since: datetime, until: datetime) -> AsyncIterator[Intent]:
        """Go through this installation's intents made in a span of time, newest first; raises StripeError."""
        params: dict[str, Any] = {
            "limit": _PAGE,
            "created": {"gte": int(since.timestamp()), "lte": int(until.timestamp())},
        }
        while True:
            page = await self._ask(_Intents, "get", _INTENTS, params)
            for intent in page.data:
                if intent.metadata.get("installation") == str(self.installation):
                    yield intent
            if not page.has_more:
                return
            params["starting_after"] = page.data[-1].id

    async def close_intent(self, intent: Intent) -> None:
        """Give back what an intent holds that no payment of ours stands for; raises StripeError."""
        await self._ask(Intent, "post", f"{_INTENTS}/{intent.id}/cancel", {}, f"close:{intent.id}:{intent.status}")

    def heard(self, body: bytes, signature: str | None) -> Told:
        """Return what a webhook tells; raises Forged. Two secrets are valid while one replaces the other."""
        if signature is None or not signature.isascii():
            raise Forged  # the SDK compares in constant time, which Python does for ASCII only
        for secret in self.webhook_secrets:
            try:
                stripe.WebhookSignature.verify_header(body, signature, secret, _SIGNATURE_SECONDS_MAX)
                return msgspec.json.decode(body, type=Told)
            except stripe.SignatureVerificationError:
                continue
            except _UNREADABLE as error:
                raise Forged from error
        raise Forged

    async def _ask(self, answer: type[A], method: str, path: str, params: dict[str, Any], key: str | None = None) -> A:
        """Send one request through the SDK, which signs in, encodes, retries and raises; read the answer ourselves.

        The SDK's own reading makes an object of every value of an answer of which we want a few.
        """
        options = {} if key is None else {"idempotency_key": key}
        response: Any = await self.client.raw_request_async(method, path, **params, **options)
        return msgspec.json.decode(response.body, type=answer)

    async def _about(self, payment: Payment, asking: Awaitable[Intent], seconds: float = _ASK_SECONDS) -> Finding:
        """Return what an answer says about a payment, whatever kind of answer it is."""
        try:
            async with asyncio.timeout(seconds):
                return self._finding(payment, await asking)
        except stripe.CardError as error:
            return _declined(error)
        except stripe.IdempotencyError as error:
            log.error("an idempotency key was used for something else", extra={"payment": payment.id})  # noqa: TRY400
            return _unknown(error)
        except stripe.InvalidRequestError as error:
            return _refused(payment, error)
        except (stripe.AuthenticationError, stripe.PermissionError) as error:
            log.error("Stripe does not accept our key", extra={"why": str(error)})  # noqa: TRY400
            return _unknown(error)
        except _NO_ANSWER as error:
            return _unknown(error)

    def _finding(self, payment: Payment, intent: Intent) -> Finding:
        if (mismatch := intent.mismatch(payment, livemode=self.livemode)) is not None:
            log.error("an intent is not the payment's", extra={"payment": payment.id, "mismatch": mismatch})
            return Unknown(mismatch)
        return intent.finding()


@asynccontextmanager
async def opened(url: str, key: str, webhook_secret: str, installation: UUID) -> AsyncIterator[Gateway]:
    """Open the door: at Stripe, or at `url` where one is given. Several webhook secrets are separated by commas."""
    transport = stripe.HTTPXClient(timeout=_TIMEOUT)
    client = stripe.StripeClient(
        key, base_addresses={"api": url} if url else {}, http_client=transport, max_network_retries=_RETRIES
    )
    try:
        yield Gateway(client, installation, key.startswith(("sk_live_", "rk_live_")), webhook_secret.split(","))
    finally:
        await transport.close_async()


def _known(payment: Payment) -> str:
    assert payment.stripe_id is not None, "Stripe was not asked about this payment yet"
    return payment.stripe_id


def _paying_with(token: str) -> dict[str, Any]:
    """Return the parameters that name the card: as a token, a payment method, or what the Payment Element confirmed."""
    if token.startswith("tok_"):
        return {"payment_method_data": {"type": "card", "card": {"token": token}}}
    if token.startswith("ctoken_"):
        return {"confirmation_token": token}
    return {"payment_method": token}


def _declined(error: stripe.CardError) -> Finding:
    body: Any = error.json_body
    details = body["error"]
    intent = details.get("payment_intent") or {}
    decline = details.get("decline_code")
    code = decline if decline and decline != "generic_decline" else error.code
    return Declined(code or "card_declined", _reason(error.user_message), intent.get("id"))


def _refused(payment: Payment, error: stripe.InvalidRequestError) -> Finding:
    """Stripe will not do it, now or later: the token is wrong, or the request is."""
    is_token = error.param is not None and any(
        part in error.param for part in ("payment_method", "confirmation_token", "token")
    )
    if not is_token:
        log.warning("Stripe refused a request", extra={"payment": payment.id, "code": error.code, "why": str(error)})
    return Declined(TOKEN_INVALID if is_token else error.code or "refused", _PROVIDER_REFUSED)


def _unknown(error: Exception) -> Unknown:
    log.warning("Stripe gave no answer", extra={"error": f"{type(error).__name__}: {error}"})
    return Unknown(type(error).__name__)


def _code(error: _Error) -> str:
    return error.decline_code or error.code or "not_completed"


def _reason(message: str | None) -> str:
    return (message or "The payment was not completed")[:_REASON_CHARACTERS_MAX]

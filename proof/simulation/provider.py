"""A payment provider with Stripe's meaning: intents, idempotency keys, captures, refunds, webhooks, and failures."""

import asyncio
import copy
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast
from uuid import UUID

import msgspec
import stripe

from admitone.invariants import ProviderIntent
from admitone.payments.gateway import Gateway, Told

if TYPE_CHECKING:
    from proof.simulation.world import Process, World

A = TypeVar("A", bound=msgspec.Struct)
Json = dict[str, Any]

GOOD_CARD: Final = "tok_visa"
BAD_CARD: Final = "tok_declined"
CONFIRMED_CARD: Final = "tok_confirm"
NO_CARD: Final = "tok_nonsense"

_RETRIES: Final = 2
_OPEN: Final = {"requires_payment_method", "requires_confirmation", "requires_action", "requires_capture"}


@dataclass
class _Failure:
    """An answer that is an error."""

    status: int
    code: str
    param: str | None = None
    intent: Json | None = None


class Timeout(Exception):
    """No answer"""


class Provider:
    """What Stripe knows, and how it answers."""

    def __init__(self, world: "World", random: Random) -> None:
        self._world = world
        self._random = random
        self.intents: dict[str, Json] = {}
        self._seen_from: dict[str, float] = {}
        self._answers: dict[str, tuple[Any, Json | _Failure]] = {}
        self._under_way: set[str | None] = set()
        self._told = 0
        self.captures = 0

    # Answering.

    async def request(self, method: str, path: str, params: Json, key: str | None) -> Json:
        """One request over the network; raises what the SDK raises, or Timeout."""
        faults, loop = self._world.faults, self._world.loop
        await asyncio.sleep(self._random.uniform(0.05, 0.4))
        if faults.happens("provider unreachable"):
            raise stripe.APIConnectionError("unreachable")  # type: ignore[no-untyped-call]
        if faults.happens("provider says too many"):
            raise _raised(_Failure(429, "rate_limit"))
        if faults.happens("provider is slow"):
            await asyncio.sleep(self._random.uniform(1.0, 8.0))
        if faults.happens("provider times out before"):
            # It takes effect long after the caller has given up.
            self._under_way.add(key)
            loop.call_later(self._random.uniform(5.0, 100.0), self._answer_late, method, path, params, key)
            await asyncio.sleep(6.0)
            raise Timeout
        if key is not None and key in self._under_way:
            raise _raised(_Failure(409, "idempotency_key_in_use"))
        answer = self._answer(method, path, params, key)
        if faults.happens("provider times out after"):
            await asyncio.sleep(6.0)
            raise Timeout
        await asyncio.sleep(self._random.uniform(0.05, 0.4))
        if isinstance(answer, _Failure):
            raise _raised(answer)
        return answer

    def _answer_late(self, method: str, path: str, params: Json, key: str | None) -> None:
        self._under_way.discard(key)
        self._answer(method, path, params, key)

    def _answer(self, method: str, path: str, params: Json, key: str | None) -> Json | _Failure:
        asked = (method, path, repr(params))
        if key is not None and key in self._answers:
            before, answer = self._answers[key]
            return answer if before == asked else _Failure(400, "idempotency_key_in_use")
        if self._world.faults.happens("provider fails before"):
            answer = _Failure(500, "api_error")
        else:
            answer = copy.deepcopy(self._do(method, path.removeprefix("/v1/").split("/"), params))
            if method == "post" and self._world.faults.happens("provider fails after"):
                answer = _Failure(500, "api_error")
        if key is not None:
            self._answers[key] = (asked, answer)
        self._world.trace("provider", method, path.rpartition("/")[2][:10], type(answer).__name__)
        return answer

    def _do(self, method: str, parts: list[str], params: Json) -> Json | _Failure:
        match method, parts:
            case "post", ["payment_intents"]:
                return self._create(params)
            case "get", ["payment_intents"]:
                return self._list(params)
            case "get", ["payment_intents", "search"]:
                return self._search(params["query"])
            case "get", ["payment_intents", intent_id]:
                return self.intents.get(intent_id) or _Failure(404, "resource_missing")
            case "post", ["payment_intents", intent_id, "capture"]:
                return self._capture(self.intents[intent_id])
            case "post", ["payment_intents", intent_id, "cancel"]:
                return self._cancel(self.intents[intent_id])
            case "post", ["refunds"]:
                return self._refund(self.intents[params["payment_intent"]])
            case _:
                raise AssertionError((method, parts))

    def now(self) -> datetime:
        return self._world.true_time()

    def _create(self, params: Json) -> Json | _Failure:
        token = params["payment_method_data"]["card"]["token"]
        if token == NO_CARD:
            return _Failure(400, "resource_missing", "payment_method_data[card][token]")
        intent: Json = {
            "id": f"pi_{len(self.intents) + 1:06d}",
            "object": "payment_intent",
            "amount": params["amount"],
            "currency": params["currency"],
            "created": int(self.now().timestamp()),
            "livemode": False,
            "status": "requires_capture",
            "metadata": dict(params["metadata"]),
            "amount_received": 0,
            "client_secret": "secret",
            "latest_charge": {"amount_refunded": 0},
        }
        self.intents[intent["id"]] = intent
        lag = self._random.uniform(1, 90) if self._world.faults.happens("search lags") else 0.0
        self._seen_from[intent["id"]] = self._world.loop.time() + lag
        if token == BAD_CARD:
            intent["status"] = "requires_payment_method"
            intent["last_payment_error"] = {"code": "card_declined", "message": "Your card was declined."}
            self._tell("payment_intent.payment_failed", intent)
            return _Failure(402, "card_declined", None, copy.deepcopy(intent))
        if token == CONFIRMED_CARD:
            intent["status"] = "requires_action"
            intent["next_action"] = {"type": "redirect_to_url", "redirect_to_url": {"url": "https://bank.example"}}
            return intent
        self._tell("payment_intent.amount_capturable_updated", intent)
        if self._world.faults.happens("hold lost"):
            # Most often before it can be taken: afterwards there is nothing to lose.
            after = self._random.choice((0.3, 1.0, 60.0)) * self._random.random()
            self._world.loop.call_later(after, self._lose_hold, intent)
        return intent

    def _list(self, params: Json) -> Json:
        created = params["created"]
        found = [
            each for each in reversed(self.intents.values()) if created["gte"] <= each["created"] <= created["lte"]
        ]
        if after := params.get("starting_after"):
            ids = [each["id"] for each in found]
            found = found[ids.index(after) + 1 :]
        return {"data": found[: params["limit"]], "has_more": len(found) > params["limit"]}

    def _search(self, query: str) -> Json:
        wanted = query.rpartition(":")[2].strip("'")
        return {
            "data": [
                each
                for each in self.intents.values()
                if each["metadata"]["payment_id"] == wanted and self._seen_from[each["id"]] <= self._world.loop.time()
            ]
        }

    def _capture(self, intent: Json) -> Json | _Failure:
        if intent["status"] != "requires_capture":
            return _Failure(400, "payment_intent_unexpected_state")
        self._world.captured(intent)
        intent |= {"status": "succeeded", "amount_received": intent["amount"]}
        self.captures += 1
        self._tell("payment_intent.succeeded", intent)
        return intent

    def _cancel(self, intent: Json) -> Json | _Failure:
        if intent["status"] not in _OPEN:
            return _Failure(400, "payment_intent_unexpected_state")
        intent["status"] = "canceled"
        self._tell("payment_intent.canceled", intent)
        return intent

    def _refund(self, intent: Json) -> Json | _Failure:
        if intent["status"] != "succeeded" or intent["latest_charge"]["amount_refunded"]:
            return _Failure(400, "charge_already_refunded")
        intent["latest_charge"]["amount_refunded"] = intent["amount"]
        self._tell("charge.refunded", {"id": "ch_1", "object": "charge", "payment_intent": intent["id"]})
        return {"id": "re_1"}

    def _lose_hold(self, intent: Json) -> None:
        """The bank takes a hold back before it was captured."""
        if intent["status"] == "requires_capture":
            self._cancel(intent)

    # The buyer at the bank.

    def confirm(self, payment_id: str, *, agrees: bool) -> None:
        for intent in self.intents.values():
            if intent["metadata"]["payment_id"] == payment_id and intent["status"] == "requires_action":
                intent.pop("next_action")
                if agrees:
                    intent["status"] = "requires_capture"
                    self._tell("payment_intent.amount_capturable_updated", intent)
                else:
                    intent["status"] = "requires_payment_method"
                    intent["last_payment_error"] = {"code": "authentication_failed", "message": "The bank said no."}
                    self._tell("payment_intent.payment_failed", intent)

    # Webhooks.

    def _tell(self, kind: str, subject: Json) -> None:
        self._told += 1
        faults = self._world.faults
        if faults.happens("webhook lost"):
            return
        told = {
            "id": f"evt_{self._told:06d}",
            "type": kind,
            "livemode": False,
            "data": {"object": copy.deepcopy(subject)},
        }
        for _ in range(2 if faults.happens("webhook twice") else 1):
            late = faults.happens("webhook late")
            delay = self._random.uniform(5.0, 120.0) if late else self._random.uniform(0.0, 1.0)
            self._world.loop.call_later(delay, self._world.deliver_webhook, msgspec.json.encode(told), 5)

    # For the checker.

    def books(self) -> list[ProviderIntent]:
        """What the provider says to whoever compares: the invariants' view of it."""
        return [
            ProviderIntent(
                id=each["id"],
                status=each["status"],
                amount_cents=each["amount"],
                taken_cents=max(each["amount_received"] - each["latest_charge"]["amount_refunded"], 0),
                currency=each["currency"],
                order_id=UUID(each["metadata"]["order_id"]),
                payment_id=UUID(each["metadata"]["payment_id"]),
            )
            for each in self.intents.values()
        ]


def _raised(failure: _Failure) -> stripe.StripeError:
    body: Json = {"error": {"code": failure.code, "message": failure.code, "payment_intent": failure.intent}}
    match failure.status:
        case 402:
            return stripe.CardError("declined", None, failure.code, None, 402, body)  # type: ignore[no-untyped-call]
        case 429:
            return stripe.RateLimitError("too many", None, 429, body)
        case 409 | 500:
            return stripe.APIError("failed", None, failure.status, body)
        case _ if failure.code == "idempotency_key_in_use":
            return stripe.IdempotencyError("another request", None, 400, body)
        case status:
            return stripe.InvalidRequestError(  # type: ignore[no-untyped-call]
                failure.code, failure.param, failure.code, None, status, body
            )


@dataclass(frozen=True)
class SimulatedGateway(Gateway):
    """The service's own gateway, whose requests end at the provider above instead of in the SDK."""

    process: "Process"

    async def _ask(self, answer: type[A], method: str, path: str, params: Json, key: str | None = None) -> A:
        """Ask like the SDK: twice more after what may go away, under the same key."""
        provider = self.process.world.provider
        for retry in range(_RETRIES + 1):
            await self.process.lives_on("provider")
            try:
                found = await provider.request(method, path, params, key)
            except (stripe.APIConnectionError, stripe.APIError, Timeout) as error:
                if retry < _RETRIES:
                    await asyncio.sleep(0.5 * 2**retry)
                    continue
                if isinstance(error, Timeout):
                    raise stripe.APIConnectionError("no answer") from None  # type: ignore[no-untyped-call]
                raise
            if self.process.world.faults.happens("crash after the provider's answer"):
                self.process.crash()
            return msgspec.convert(found, answer)
        raise AssertionError

    def heard(self, body: bytes, signature: str | None) -> Told:  # noqa: ARG002 – signatures have tests of their own
        return msgspec.json.decode(body, type=Told)


def opener(process: "Process") -> Callable[..., Any]:
    """Return what stands for `gateway.opened` while a process starts."""

    @asynccontextmanager
    async def opened(_url: str, _key: str, _secret: str, installation: UUID) -> Any:
        yield SimulatedGateway(cast(Any, None), installation, livemode=False, webhook_secrets=(), process=process)

    return opened

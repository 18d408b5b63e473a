"""A payment provider with Stripe's meaning: intents, idempotency keys, captures, refunds, webhooks and failures."""

import asyncio
import copy
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import msgspec
import stripe

from admitone.invariants import ProviderIntent
from proof.clients import Json
from proof.people import CONFIRMED_CARD, DECLINED_CARD, UNKNOWN_CARD

if TYPE_CHECKING:
    from proof.simulation.processes import Process
    from proof.simulation.world import World

_RETRIES: Final = 2
_WEBHOOK_ATTEMPTS: Final = 5
_OPEN: Final = {"requires_payment_method", "requires_confirmation", "requires_action", "requires_capture"}


@dataclass
class _Failure:
    """A response that is an error."""

    status: int
    code: str
    param: str | None = None
    intent: Json | None = None

    def as_error(self) -> stripe.StripeError:
        """Return what the SDK raises for it."""
        body: Json = {"error": {"code": self.code, "message": self.code, "payment_intent": self.intent}}
        match self.status:
            case 402:
                return stripe.CardError("declined", None, self.code, None, 402, body)  # type: ignore[no-untyped-call]
            case 429:
                return stripe.RateLimitError("too many", None, 429, body)
            case 409 | 500:
                return stripe.APIError("failed", None, self.status, body)
            case _ if self.code == "idempotency_key_in_use":
                return stripe.IdempotencyError("another request", None, 400, body)
            case status:
                return stripe.InvalidRequestError(  # type: ignore[no-untyped-call]
                    self.code, self.param, self.code, None, status, body
                )


class ProviderTimeout(Exception):
    """No response in time"""


class SimulatedProvider:
    """What Stripe knows, and how it responds."""

    def __init__(self, world: "World", random: Random) -> None:
        self._world = world
        self._random = random
        self._intents: dict[str, Json] = {}
        self._found_from: dict[str, float] = {}
        self._responses: dict[str, tuple[Any, Json | _Failure]] = {}
        self._in_progress: set[str | None] = set()
        self._webhooks = 0

    # Requests.

    async def request(self, method: str, path: str, params: Json, key: str | None) -> Json:
        """Send one request over the network; raises what the SDK raises, or ProviderTimeout."""
        faults, loop = self._world.faults, self._world.loop
        await asyncio.sleep(self._random.uniform(0.05, 0.4))
        if faults.strikes("provider unreachable"):
            raise stripe.APIConnectionError("unreachable")  # type: ignore[no-untyped-call]
        if faults.strikes("provider says too many"):
            raise _Failure(429, "rate_limit").as_error()
        if faults.strikes("provider is slow"):
            await asyncio.sleep(self._random.uniform(1.0, 8.0))
        if faults.strikes("provider times out before"):
            # It takes effect long after the caller has given up.
            self._in_progress.add(key)
            loop.call_later(self._random.uniform(5.0, 100.0), self._respond_late, method, path, params, key)
            await asyncio.sleep(6.0)
            raise ProviderTimeout
        if key is not None and key in self._in_progress:
            raise _Failure(409, "idempotency_key_in_use").as_error()
        response = self._respond(method, path, params, key)
        if faults.strikes("provider times out after"):
            await asyncio.sleep(6.0)
            raise ProviderTimeout
        await asyncio.sleep(self._random.uniform(0.05, 0.4))
        if isinstance(response, _Failure):
            raise response.as_error()
        return response

    def _respond_late(self, method: str, path: str, params: Json, key: str | None) -> None:
        self._in_progress.discard(key)
        self._respond(method, path, params, key)

    def _respond(self, method: str, path: str, params: Json, key: str | None) -> Json | _Failure:
        request = (method, path, repr(params))
        if key is not None and key in self._responses:
            before, response = self._responses[key]
            return response if before == request else _Failure(400, "idempotency_key_in_use")
        if self._world.faults.strikes("provider fails before"):
            response = _Failure(500, "api_error")
        else:
            response = copy.deepcopy(self._execute(method, path.removeprefix("/v1/").split("/"), params))
            if method == "post" and self._world.faults.strikes("provider fails after"):
                response = _Failure(500, "api_error")
        if key is not None:
            self._responses[key] = (request, response)
        self._world.trace("provider", method, path.rpartition("/")[2][:10], type(response).__name__)
        return response

    def _execute(self, method: str, parts: list[str], params: Json) -> Json | _Failure:
        match method, parts:
            case "post", ["payment_intents"]:
                return self._create(params)
            case "get", ["payment_intents"]:
                return self._list(params)
            case "get", ["payment_intents", "search"]:
                return self._search(params["query"])
            case "get", ["payment_intents", intent_id]:
                return self._intents.get(intent_id) or _Failure(404, "resource_missing")
            case "post", ["payment_intents", intent_id, "capture"]:
                return self._capture(self._intents[intent_id])
            case "post", ["payment_intents", intent_id, "cancel"]:
                return self._cancel(self._intents[intent_id])
            case "post", ["refunds"]:
                return self._refund(self._intents[params["payment_intent"]])
            case _:
                raise AssertionError((method, parts))

    def _create(self, params: Json) -> Json | _Failure:
        token = params["payment_method_data"]["card"]["token"]
        if token == UNKNOWN_CARD:
            return _Failure(400, "resource_missing", "payment_method_data[card][token]")
        intent: Json = {
            "id": f"pi_{len(self._intents) + 1:06d}",
            "object": "payment_intent",
            "amount": params["amount"],
            "currency": params["currency"],
            "created": int(self._world.true_time().timestamp()),
            "livemode": False,
            "status": "requires_capture",
            "metadata": dict(params["metadata"]),
            "amount_received": 0,
            "client_secret": "secret",
            "latest_charge": {"amount_refunded": 0},
        }
        self._intents[intent["id"]] = intent
        lag_seconds = self._random.uniform(1, 90) if self._world.faults.strikes("search lags") else 0.0
        self._found_from[intent["id"]] = self._world.loop.time() + lag_seconds
        if token == DECLINED_CARD:
            self._refuse(intent, "card_declined", "Your card was declined.")
            return _Failure(402, "card_declined", None, copy.deepcopy(intent))
        if token == CONFIRMED_CARD:
            intent["status"] = "requires_action"
            intent["next_action"] = {"type": "redirect_to_url", "redirect_to_url": {"url": "https://bank.example"}}
            return intent
        self._send_webhook("payment_intent.amount_capturable_updated", intent)
        if self._world.faults.strikes("hold lost"):
            # Most often before it can be captured: afterwards there is nothing to lose.
            after_seconds = self._random.choice((0.3, 1.0, 60.0)) * self._random.random()
            self._world.loop.call_later(after_seconds, self._lose_hold, intent)
        return intent

    def _list(self, params: Json) -> Json:
        created = params["created"]
        found = [
            each for each in reversed(self._intents.values()) if created["gte"] <= each["created"] <= created["lte"]
        ]
        if after := params.get("starting_after"):
            found = found[[each["id"] for each in found].index(after) + 1 :]
        return {"data": found[: params["limit"]], "has_more": len(found) > params["limit"]}

    def _search(self, query: str) -> Json:
        wanted, now = query.rpartition(":")[2].strip("'"), self._world.loop.time()
        found = [
            each
            for each in self._intents.values()
            if each["metadata"]["payment_id"] == wanted and self._found_from[each["id"]] <= now
        ]
        return {"data": found}

    def _capture(self, intent: Json) -> Json | _Failure:
        if intent["status"] != "requires_capture":
            return _Failure(400, "payment_intent_unexpected_state")
        self._world.check_capture(intent)
        intent |= {"status": "succeeded", "amount_received": intent["amount"]}
        self._send_webhook("payment_intent.succeeded", intent)
        return intent

    def _cancel(self, intent: Json) -> Json | _Failure:
        if intent["status"] not in _OPEN:
            return _Failure(400, "payment_intent_unexpected_state")
        intent["status"] = "canceled"
        self._send_webhook("payment_intent.canceled", intent)
        return intent

    def _refund(self, intent: Json) -> Json | _Failure:
        if intent["status"] != "succeeded" or intent["latest_charge"]["amount_refunded"]:
            return _Failure(400, "charge_already_refunded")
        intent["latest_charge"]["amount_refunded"] = intent["amount"]
        self._send_webhook("charge.refunded", {"id": "ch_1", "object": "charge", "payment_intent": intent["id"]})
        return {"id": "re_1"}

    def _refuse(self, intent: Json, code: str, message: str) -> None:
        intent["status"] = "requires_payment_method"
        intent["last_payment_error"] = {"code": code, "message": message}
        self._send_webhook("payment_intent.payment_failed", intent)

    def _lose_hold(self, intent: Json) -> None:
        """The bank takes a hold back before it was captured."""
        if intent["status"] == "requires_capture":
            self._cancel(intent)

    async def confirm(self, payment: Json, *, agrees: bool) -> None:
        """The buyer confirms a payment at the bank, or refuses it."""
        for intent in self._intents.values():
            if intent["metadata"]["payment_id"] == payment["id"] and intent["status"] == "requires_action":
                intent.pop("next_action")
                if agrees:
                    intent["status"] = "requires_capture"
                    self._send_webhook("payment_intent.amount_capturable_updated", intent)
                else:
                    self._refuse(intent, "authentication_failed", "The bank refused.")

    def _send_webhook(self, kind: str, subject: Json) -> None:
        self._webhooks += 1
        faults = self._world.faults
        if faults.strikes("webhook lost"):
            return
        event = {
            "id": f"evt_{self._webhooks:06d}",
            "type": kind,
            "livemode": False,
            "data": {"object": copy.deepcopy(subject)},
        }
        for _ in range(2 if faults.strikes("webhook twice") else 1):
            is_late = faults.strikes("webhook late")
            delay_seconds = self._random.uniform(5.0, 120.0) if is_late else self._random.uniform(0.0, 1.0)
            body = msgspec.json.encode(event)
            self._world.loop.call_later(delay_seconds, self._world.deliver_webhook, body, _WEBHOOK_ATTEMPTS)

    def books(self) -> list[ProviderIntent]:
        """Return the provider's list, for the invariants."""
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
            for each in self._intents.values()
        ]


class _RawResponse(msgspec.Struct):
    body: bytes


class SimulatedStripeClient:
    """`stripe.StripeClient`, as far as the gateway uses one: its requests end at the simulated provider."""

    def __init__(self, process: "Process") -> None:
        self._process = process

    async def raw_request_async(self, method: str, path: str, **params: Any) -> _RawResponse:
        """Send like the SDK: repeat twice what may succeed later, under the same key."""
        world, key = self._process.world, params.pop("idempotency_key", None)
        for retry in range(_RETRIES + 1):
            await self._process.stay_alive()
            try:
                found = await world.provider.request(method, path, params, key)
            except (stripe.APIConnectionError, stripe.APIError, ProviderTimeout) as error:
                if retry < _RETRIES:
                    await asyncio.sleep(0.5 * 2**retry)
                    continue
                if isinstance(error, ProviderTimeout):
                    raise stripe.APIConnectionError("no response") from None  # type: ignore[no-untyped-call]
                raise
            if world.faults.strikes("crash after the provider's response"):
                self._process.crash()
            return _RawResponse(msgspec.json.encode(found))
        raise AssertionError


class NoTransport:
    """The HTTP transport of the SDK, which is never used here."""

    async def close_async(self) -> None:
        """There is nothing to close."""

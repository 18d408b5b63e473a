"""The provider's API: what each operation reads and does, once per idempotency key."""

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final
from weakref import WeakValueDictionary

import msgspec
import stripe.params as types
from stripe.params.test_helpers import ConfirmationTokenCreateParams

from admitone.sandbox import intents, parameters
from admitone.sandbox.faults import Operation
from admitone.sandbox.ids import new_id
from admitone.sandbox.intents import Step, public
from admitone.sandbox.ledger import Effect, Keyed, KeyTaken, Ledger, Page, Told, encode
from admitone.sandbox.problems import Json, Problem, internal, invalid, missing
from admitone.sandbox.webhooks import Webhooks

log = logging.getLogger(__name__)

_HOUSEKEEPING_SECONDS: Final = 30.0
_PAGE_MAX: Final = 100
_CLAUSE: Final = re.compile(r"\s*(?:metadata\['([^']+)'\]|(status))\s*:\s*'([^']*)'\s*")

_NO_EFFECT: Final = Effect()


@dataclass(frozen=True)
class Asked:
    """One request, read and checked; times are seconds since the epoch."""

    params: Json
    object_id: str
    base_url: str
    now: int


@dataclass(frozen=True)
class Done:
    """What a request came to."""

    body: Json
    status: int = 200
    effect: Effect = _NO_EFFECT
    told: tuple[Told, ...] = ()


@dataclass(frozen=True)
class Reply:
    """What is answered; a replay carries the id of the request that was answered first."""

    status: int
    body: Json
    request_id: str
    is_replay: bool = False


class Provider:
    """The payment provider over its ledger."""

    def __init__(self, ledger: Ledger, webhooks: Webhooks) -> None:
        self._ledger = ledger
        self._webhooks = webhooks
        self._keys_in_flight: set[str] = set()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def read(self, offer: "Offer", encoded: str, object_id: str, base_url: str) -> Asked:
        """Check a request's parameters; raises Problem."""
        params = parameters.read(encoded, offer.params)
        for name in params:
            if name not in offer.supports:
                raise invalid(f"This sandbox does not offer the parameter {name}", param=name)
        return Asked(params, object_id, base_url, int(time.time()))

    async def look(self, offer: "Offer", asked: Asked) -> Reply:
        """Answer a request that changes nothing; raises Problem."""
        done = await offer.run(self, asked)
        return Reply(done.status, done.body, new_id("req"))

    async def change(
        self, offer: "Offer", asked: Asked, path: str, encoded: str, key: str | None, *, spoils: bool
    ) -> Reply:
        """Let a request take effect once; under a key that was answered before, give that answer again.

        With `spoils` the effect stands and the answer is a 500. Raises Problem for a key that is in use or was used
        for something else. Source: Stripe API reference, "Idempotent requests": once a request passed the checks of
        its parameters its answer is kept, whatever it is; keys are forgotten after a day.
        """
        if key is None:
            return await self._change(offer, asked, path, b"", None, spoils=spoils)
        if key in self._keys_in_flight:
            raise Problem(
                409,
                f"There is currently another in-progress request using this Idempotent Key: {key}.",
                kind="idempotency_error",
                code="idempotency_key_in_use",
            )
        fingerprint = hashlib.sha256("&".join(sorted(encoded.split("&"))).encode()).digest()
        self._keys_in_flight.add(key)
        try:
            return await self._change(offer, asked, path, fingerprint, key, spoils=spoils)
        except KeyTaken:
            return await self._replay(key, path, fingerprint)
        finally:
            self._keys_in_flight.discard(key)

    async def _change(
        self, offer: "Offer", asked: Asked, path: str, fingerprint: bytes, key: str | None, *, spoils: bool
    ) -> Reply:
        request_id = new_id("req")
        async with self._lock(asked.object_id or asked.params.get("payment_intent")):
            try:
                done = await offer.run(self, asked)
            except Problem as problem:
                done = Done(problem.body, problem.status)
            if spoils:
                done = Done(internal().body, internal().status, done.effect, done.told)
            keyed = None
            if key is not None:
                keyed = Keyed(key, path, fingerprint, done.status, encode(done.body), request_id)
            await self._ledger.record(done.effect, done.told, keyed)
        self._webhooks.send(done.told)
        return Reply(done.status, done.body, request_id)

    async def _replay(self, key: str, path: str, fingerprint: bytes) -> Reply:
        first = await self._ledger.recall(key)
        if first.path == path and first.fingerprint == fingerprint:
            return Reply(first.status, msgspec.json.decode(first.body), first.request_id, is_replay=True)
        same = "parameters they were first used with"
        if first.path != path:
            same = f"endpoint they were first used for ('{path}' vs '{first.path}')"
        raise Problem(
            400,
            f"Keys for idempotent requests can only be used {'with' if first.path == path else 'for'} the same {same}."
            f" Try using a key other than '{key}' if you meant to execute a different request.",
            kind="idempotency_error",
        )

    def _lock(self, intent_id: str | None) -> asyncio.Lock:
        """Return the lock that lets an intent take one step at a time."""
        return self._locks.setdefault(intent_id, asyncio.Lock()) if intent_id else asyncio.Lock()

    # What the operations do.

    def _done(self, step: Step, asked: Asked) -> Done:
        told = tuple(self._webhooks.told(each, public(step.intent), asked.now) for each in step.events)
        effect = Effect(intents=(step.intent,))
        if step.problem is not None:
            return Done(step.problem.body, step.problem.status, effect, told)
        return Done(_shown(step.intent, asked.params), 200, effect, told)

    async def _intent(self, intent_id: str, param: str = "intent") -> Json:
        intent = await self._ledger.intent(intent_id)
        if intent is None:
            raise missing("payment_intent", intent_id, param)
        return intent

    async def create_intent(self, asked: Asked) -> Done:
        intent = intents.create(asked.params, asked.now)
        if not asked.params.get("confirm", False):
            card = intents.chosen_card(asked.params)
            return self._done(Step(intents.with_card(intent, card)), asked)
        return await self._confirmed(intent, asked)

    async def confirm_intent(self, asked: Asked) -> Done:
        return await self._confirmed(await self._intent(asked.object_id), asked)

    async def _confirmed(self, intent: Json, asked: Asked) -> Done:
        params, token = asked.params, None
        if (token_id := params.get("confirmation_token")) is not None:
            token = await self._ledger.unused_token(token_id)
            if token is None:
                raise missing("confirmation_token", token_id, "confirmation_token")
            params = {"return_url": token["return_url"], "use_stripe_sdk": token["return_url"] is None} | params
        card = intents.chosen_card(params, token)
        done = self._done(intents.confirm(intent, params, card, base_url=asked.base_url, now=asked.now), asked)
        if token is None:
            return done
        return Done(done.body, done.status, Effect(done.effect.intents, tokens=((token, True),)), done.told)

    async def capture_intent(self, asked: Asked) -> Done:
        return self._done(intents.capture(await self._intent(asked.object_id), asked.params), asked)

    async def cancel_intent(self, asked: Asked) -> Done:
        return self._done(intents.cancel(await self._intent(asked.object_id), asked.params, asked.now), asked)

    async def retrieve_intent(self, asked: Asked) -> Done:
        return Done(_shown(await self._intent(asked.object_id), asked.params))

    async def list_intents(self, asked: Asked) -> Done:
        return await self._list("payment_intent", "/v1/payment_intents", asked)

    async def search_intents(self, asked: Asked) -> Done:
        condition, arguments = _searched(asked.params["query"])
        page = Page(_limit(asked.params), starting_after=asked.params.get("page"))
        found, has_more = await self._ledger.listed("payment_intent", page, condition, *arguments)
        return Done(
            {
                "object": "search_result",
                "data": [_shown(each, asked.params, "data.") for each in found],
                "has_more": has_more,
                "next_page": found[-1]["id"] if has_more else None,
                "url": "/v1/payment_intents/search",
            }
        )

    async def create_refund(self, asked: Asked) -> Done:
        intent_id = asked.params.get("payment_intent")
        if intent_id is None:
            raise invalid("You must provide payment_intent", param="payment_intent", code="parameter_missing")
        made, intent = intents.refund(await self._intent(intent_id, "payment_intent"), asked.params, asked.now)
        charge = intents.charge_of(intent)
        assert charge is not None
        told = (
            self._webhooks.told("refund.created", made, asked.now),
            self._webhooks.told("charge.refunded", charge, asked.now),
        )
        return Done(made, 200, Effect(intents=(intent,), refunds=(made,)), told)

    async def list_refunds(self, asked: Asked) -> Done:
        if (intent_id := asked.params.get("payment_intent")) is None:
            return await self._list("refund", "/v1/refunds", asked)
        return await self._list("refund", "/v1/refunds", asked, "payment_intent = $1", intent_id)

    async def retrieve_refund(self, asked: Asked) -> Done:
        refund = await self._ledger.refund(asked.object_id)
        if refund is None:
            raise missing("refund", asked.object_id, "refund")
        return Done(refund)

    async def list_events(self, asked: Asked) -> Done:
        if (wanted := asked.params.get("type")) is None:
            return await self._list("event", "/v1/events", asked)
        return await self._list("event", "/v1/events", asked, "type = $1", wanted)

    async def retrieve_event(self, asked: Asked) -> Done:
        event = await self._ledger.event(asked.object_id)
        if event is None:
            raise missing("event", asked.object_id, "id")
        return Done(event)

    async def create_confirmation_token(self, asked: Asked) -> Done:
        token = intents.confirmation_token(asked.params, asked.now)
        return Done(token, 200, Effect(tokens=((token, False),)))

    async def _list(self, table: str, url: str, asked: Asked, condition: str = "true", *arguments: object) -> Done:
        params = asked.params
        page = Page(_limit(params), params.get("starting_after"), params.get("ending_before"), params.get("created"))
        found, has_more = await self._ledger.listed(table, page, condition, *arguments)
        shown = [_shown(each, params, "data.") for each in found]
        return Done({"object": "list", "data": shown, "has_more": has_more, "url": url})

    # What happens to intents beside the API.

    async def intent_for(self, intent_id: str) -> Json | None:
        """Return an intent with what the sandbox notes for itself."""
        return await self._ledger.intent(intent_id)

    async def authenticate(self, intent_id: str, *, is_approved: bool) -> Json:
        """Let the buyer's decision at the bank take effect; raises Problem when nothing waits for it."""
        return await self._let_step(
            intent_id, partial(intents.authenticate, is_approved=is_approved, now=int(time.time()))
        )

    async def expire(self, intent_id: str) -> Json:
        """Let an authorisation lapse before its time; raises Problem when there is none."""
        return await self._let_step(intent_id, partial(intents.expire, now=int(time.time())))

    async def keep_house(self) -> None:
        """Let authorisations lapse that nobody captured in time, and forget old keys, until cancelled."""
        while True:
            try:
                for intent in await self._ledger.lapsed_intents(int(time.time())):
                    await self.expire(intent["id"])
                await self._ledger.forget_old_keys()
            except Exception:
                log.exception("housekeeping failed and is tried again")
            await asyncio.sleep(_HOUSEKEEPING_SECONDS)

    async def _let_step(self, intent_id: str, take: Callable[[Json], Step]) -> Json:
        async with self._lock(intent_id):
            step = take(await self._intent(intent_id))
            told = tuple(self._webhooks.told(each, public(step.intent), int(time.time())) for each in step.events)
            await self._ledger.record(Effect(intents=(step.intent,)), told, None)
        self._webhooks.send(told)
        return public(step.intent)


@dataclass(frozen=True)
class Offer:
    """One operation of the API: where it is, what it reads, and which of Stripe's parameters mean something here."""

    name: Operation
    method: str
    path: str
    run: Callable[[Provider, Asked], Awaitable[Done]]
    params: type
    supports: frozenset[str]


_EXPAND: Final = frozenset({"expand"})
_LISTING: Final = frozenset({"limit", "starting_after", "ending_before", "created"})
_CONFIRMING: Final = frozenset(
    {"payment_method", "payment_method_data", "confirmation_token", "return_url", "use_stripe_sdk", "expand"}
)
_CREATING: Final = _CONFIRMING | {
    *("amount", "currency", "automatic_payment_methods", "capture_method", "confirm", "description", "metadata"),
}
_INTENTS: Final = "/v1/payment_intents"

OFFERS: Final = (
    Offer("create_intent", "POST", _INTENTS, Provider.create_intent, types.PaymentIntentCreateParams, _CREATING),
    Offer("list_intents", "GET", _INTENTS, Provider.list_intents, types.PaymentIntentListParams, _LISTING | _EXPAND),
    Offer(
        "search_intents",
        "GET",
        f"{_INTENTS}/search",
        Provider.search_intents,
        types.PaymentIntentSearchParams,
        frozenset({"query", "limit", "page", "expand"}),
    ),
    Offer(
        "retrieve_intent",
        "GET",
        _INTENTS + "/{id}",
        Provider.retrieve_intent,
        types.PaymentIntentRetrieveParams,
        _EXPAND,
    ),
    Offer(
        "confirm_intent",
        "POST",
        _INTENTS + "/{id}/confirm",
        Provider.confirm_intent,
        types.PaymentIntentConfirmParams,
        _CONFIRMING,
    ),
    Offer(
        "capture_intent",
        "POST",
        _INTENTS + "/{id}/capture",
        Provider.capture_intent,
        types.PaymentIntentCaptureParams,
        _EXPAND | {"amount_to_capture"},
    ),
    Offer(
        "cancel_intent",
        "POST",
        _INTENTS + "/{id}/cancel",
        Provider.cancel_intent,
        types.PaymentIntentCancelParams,
        _EXPAND | {"cancellation_reason"},
    ),
    Offer(
        "create_refund",
        "POST",
        "/v1/refunds",
        Provider.create_refund,
        types.RefundCreateParams,
        frozenset({"payment_intent", "amount", "reason", "metadata"}),
    ),
    Offer(
        "list_refunds",
        "GET",
        "/v1/refunds",
        Provider.list_refunds,
        types.RefundListParams,
        _LISTING | {"payment_intent"},
    ),
    Offer(
        "retrieve_refund", "GET", "/v1/refunds/{id}", Provider.retrieve_refund, types.RefundRetrieveParams, frozenset()
    ),
    Offer("list_events", "GET", "/v1/events", Provider.list_events, types.EventListParams, _LISTING | {"type"}),
    Offer("retrieve_event", "GET", "/v1/events/{id}", Provider.retrieve_event, types.EventRetrieveParams, frozenset()),
    Offer(
        "create_confirmation_token",
        "POST",
        "/v1/test_helpers/confirmation_tokens",
        Provider.create_confirmation_token,
        ConfirmationTokenCreateParams,
        frozenset({"payment_method", "return_url"}),
    ),
)


def _limit(params: Json) -> int:
    limit: int = params.get("limit", 10)
    if not 1 <= limit <= _PAGE_MAX:
        raise invalid(f"Limit must be between 1 and {_PAGE_MAX}", param="limit")
    return limit


def _shown(found: Json, params: Json, prefix: str = "") -> Json:
    shown = public(found)
    for name in params.get("expand", ()):
        if name != f"{prefix}latest_charge":
            raise invalid(f"This property cannot be expanded ({name}).", param="expand")
        shown["latest_charge"] = intents.charge_of(found)
    return shown


def _searched(query: str) -> tuple[str, list[object]]:
    """Return the SQL condition for a query such as `metadata['order_id']:'…' AND status:'requires_capture'`."""
    conditions: list[str] = []
    arguments: list[object] = []
    for clause in query.split(" AND "):
        parsed = _CLAUSE.fullmatch(clause)
        if parsed is None:
            raise invalid("We were unable to parse your search query.", param="query")
        name, _status, value = parsed.groups()
        if name is not None:
            arguments.append(encode({name: value}))
            conditions.append(f"body -> 'metadata' @> ${len(arguments)}::jsonb")
        else:
            arguments.append(value)
            conditions.append(f"body ->> 'status' = ${len(arguments)}")
    return " AND ".join(conditions), arguments

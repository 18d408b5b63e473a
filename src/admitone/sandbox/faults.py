"""Faults on demand: what tests and chaos runs tell the sandbox to do wrong, and when."""

import random
from collections.abc import Sequence
from typing import Literal, TypeVar

import msgspec

Operation = Literal[
    "create_intent",
    "retrieve_intent",
    "confirm_intent",
    "capture_intent",
    "cancel_intent",
    "list_intents",
    "search_intents",
    "create_refund",
    "retrieve_refund",
    "list_refunds",
    "list_events",
    "retrieve_event",
    "create_confirmation_token",
]


class RequestFault(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Something wrong with the next `count` requests (0: with every one until cleared).

    `when` says whether the request takes effect before it goes wrong. A 500 after the effect is what the idempotency
    key replays from then on, as with Stripe; a dropped connection loses the answer only on the way.
    """

    operations: list[Operation] = []
    count: int = 1
    share: float = 1.0
    when: Literal["before", "after"] = "before"
    delay_ms: int = 0
    answer: Literal["none", "internal_error", "too_many_requests", "drop"] = "none"


class WebhookFault(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Something wrong with the next `count` webhooks (0: with every one until cleared).

    A webhook that is held back goes out after `delay_ms`, or right after the one that follows it (`reorder`).
    """

    kind: Literal["lose", "duplicate", "delay", "reorder"]
    types: list[str] = []
    count: int = 1
    share: float = 1.0
    delay_ms: int = 1000


class Wanted(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /sandbox/faults`: what is added to the faults already wanted."""

    requests: list[RequestFault] = []
    webhooks: list[WebhookFault] = []


Fault = TypeVar("Fault", RequestFault, WebhookFault)


class Faults:
    """The faults that are still to happen."""

    def __init__(self) -> None:
        self._wanted = Wanted()
        self._dice = random.Random()  # noqa: S311 – chance, not secrecy

    def add(self, more: Wanted) -> None:
        self._wanted.requests += more.requests
        self._wanted.webhooks += more.webhooks

    def clear(self) -> None:
        self._wanted = Wanted()

    @property
    def wanted(self) -> Wanted:
        return self._wanted

    def for_request(self, operation: Operation) -> RequestFault | None:
        """Take the fault that this request suffers, if any."""
        if not self._wanted.requests:
            return None
        fitting = [each for each in self._wanted.requests if not each.operations or operation in each.operations]
        return self._take(fitting, self._wanted.requests)

    def for_webhook(self, event_type: str) -> WebhookFault | None:
        """Take the fault that the sending of this event suffers, if any."""
        if not self._wanted.webhooks:
            return None
        fitting = [each for each in self._wanted.webhooks if not each.types or event_type in each.types]
        return self._take(fitting, self._wanted.webhooks)

    def _take(self, fitting: Sequence[Fault], waiting: list[Fault]) -> Fault | None:
        for fault in fitting:
            if fault.share < 1.0 and self._dice.random() >= fault.share:
                continue
            if fault.count == 1:
                waiting.remove(fault)
            elif fault.count > 1:
                fault.count -= 1
            return fault
        return None

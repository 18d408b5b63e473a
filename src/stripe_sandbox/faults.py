"""Faults on demand: what goes wrong with which requests and webhooks, for tests and chaos runs."""

import random
from typing import Literal, TypeVar

from msgspec import Struct


class RequestFault(Struct, kw_only=True, forbid_unknown_fields=True):
    """A fault of the next `count` requests (0: of all until cleared) to these operations, or to any.

    `when` places it on the way to the provider, while the provider works on the request (its idempotency key is in use
    then), or on the way back, after the effect. A 500 after the effect is what the idempotency key returns from then
    on, as with Stripe; a dropped connection loses only the response.
    """

    operations: list[str] = []
    count: int = 1
    share: float = 1.0
    when: Literal["before", "during", "after"] = "before"
    delay_ms: int = 0
    answer: Literal["none", "internal_error", "too_many_requests", "drop"] = "none"


class WebhookFault(Struct, kw_only=True, forbid_unknown_fields=True):
    """A fault of the next `count` events to deliver (0: of all until cleared) of these types, or of any.

    `delay` delivers after `delay_ms`, `reorder` after the next other event, and after `delay_ms` at the latest.
    """

    kind: Literal["lose", "duplicate", "delay", "reorder"]
    types: list[str] = []
    count: int = 1
    share: float = 1.0
    delay_ms: int = 1000


Fault = TypeVar("Fault", RequestFault, WebhookFault)


class Faults(Struct, forbid_unknown_fields=True):
    """The faults that are still to happen; in JSON the body of `/sandbox/faults`."""

    requests: list[RequestFault] = []
    webhooks: list[WebhookFault] = []

    def add(self, more: "Faults") -> None:
        self.requests += more.requests
        self.webhooks += more.webhooks

    def clear(self) -> None:
        self.requests, self.webhooks = [], []

    def for_request(self, operation: str) -> RequestFault | None:
        """Return the fault of a request that has arrived, if any, and count it."""
        applicable = [each for each in self.requests if not each.operations or operation in each.operations]
        return _take(self.requests, applicable)

    def for_webhook(self, event_type: str) -> WebhookFault | None:
        """Return the fault of an event that is about to be delivered, if any, and count it."""
        applicable = [each for each in self.webhooks if not each.types or event_type in each.types]
        return _take(self.webhooks, applicable)


def _take(planned: list[Fault], applicable: list[Fault]) -> Fault | None:
    for fault in applicable:
        if random.random() < fault.share:  # noqa: S311 - chance, not secrecy
            if fault.count == 1:
                planned.remove(fault)
            fault.count = max(fault.count - 1, 0)
            return fault
    return None

"""Faults on demand: what goes wrong with which requests and webhooks, for tests and chaos runs."""

import random
from typing import Literal, TypeVar

from msgspec import Struct, field


class Fault(Struct, kw_only=True, forbid_unknown_fields=True, eq=False):
    """A fault of the next `count` times (0: of all until cleared) that chance, by `share`, does not spare."""

    count: int = 1
    share: float = 1.0


class RequestFault(Fault):
    """A fault of requests to these operations, or to any.

    `when` places it on the way to the provider, while the provider works on the request (its idempotency key is in use
    then), or on the way back, after the effect. A 500 after the effect is what the idempotency key returns from then
    on, as with Stripe; a dropped connection loses only the response. `not_found` is what another account's key gets,
    `refused` what a request gets that Stripe does not accept for good.
    """

    names: list[str] = field(name="operations", default_factory=list)
    when: Literal["before", "during", "after"] = "before"
    delay_ms: int = 0
    answer: Literal["none", "internal_error", "too_many_requests", "not_found", "refused", "drop"] = "none"


class WebhookFault(Fault):
    """A fault of the delivery of events of these types, or of any.

    `delay` delivers after `delay_ms`, `reorder` after the next other event, and after `delay_ms` at the latest.
    """

    kind: Literal["lose", "duplicate", "delay", "reorder"]
    names: list[str] = field(name="types", default_factory=list)
    delay_ms: int = 1000


class Faults(Struct, forbid_unknown_fields=True):
    """The faults that are still to happen; in JSON the body of `/sandbox/faults`."""

    requests: list[RequestFault] = []
    webhooks: list[WebhookFault] = []


F = TypeVar("F", RequestFault, WebhookFault)


def take(planned: list[F], name: str) -> F | None:
    """Return the fault of the operation or the event of this name that is about to happen, if any, and count it."""
    for fault in planned:
        if name in (fault.names or [name]) and random.random() < fault.share:  # noqa: S311 - chance, not secrecy
            if fault.count == 1:
                planned.remove(fault)
            fault.count = max(fault.count - 1, 0)
            return fault
    return None

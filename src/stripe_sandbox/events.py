"""Events: a record of each change, for the webhook endpoint and for those who list them."""

from typing import Final

import stripe.params as sdk

from stripe_sandbox.errors import Json
from stripe_sandbox.operations import Context, new_id, operation
from stripe_sandbox.parameters import ListParams, Params

API_VERSION: Final = "2026-10-28.endive"


class ListEventsParams(ListParams):
    type: str | None = None


def new(type_: str, subject: Json, now: int, *, pending_webhooks: int) -> Json:
    """Return the event that an object has changed."""
    return {
        "id": new_id("evt"),
        "object": "event",
        "api_version": API_VERSION,
        "created": now,
        "data": {"object": subject},
        "livemode": False,
        "pending_webhooks": pending_webhooks,
        "request": {"id": None, "idempotency_key": None},
        "type": type_,
    }


@operation("GET", "/v1/events/{id}", sdk.EventRetrieveParams)
def retrieve_event(context: Context, _params: Params) -> Json:
    return context.load("event", context.object_id, "id")


@operation("GET", "/v1/events", sdk.EventListParams)
def list_events(context: Context, params: ListEventsParams) -> Json:
    return context.list("event", params, type=params.type)

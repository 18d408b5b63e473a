"""The payment provider's own list of what it holds and has taken for one installation."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final
from uuid import UUID

import httpx
import msgspec

from admitone.invariants.snapshot import ProviderIntent

ListIntents = Callable[[UUID], Awaitable[Sequence[ProviderIntent]]]
"""Lists the intents that one installation of AdmitOne has at the provider."""

STRIPE_URL: Final = "https://api.stripe.com"
_PAGE: Final = 100


class _LatestCharge(msgspec.Struct):
    amount_refunded: int = 0


class _ListedIntent(msgspec.Struct):
    id: str
    status: str
    amount: int
    currency: str
    amount_received: int = 0
    latest_charge: _LatestCharge | None = None
    metadata: dict[str, str] = {}


class _IntentPage(msgspec.Struct):
    data: list[_ListedIntent]
    has_more: bool


def provider_at(url: str, secret_key: str) -> ListIntents:
    """Return how to list the intents of the provider that speaks Stripe's API at `url`: Stripe, or the sandbox."""

    async def list_intents(installation: UUID) -> Sequence[ProviderIntent]:
        headers = {"authorization": f"Bearer {secret_key}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as client:
            return await intents_of(client, installation)

    return list_intents


async def intents_of(client: httpx.AsyncClient, installation: UUID) -> list[ProviderIntent]:
    """Return the intents that one installation has at the provider which a client reaches."""
    found: list[ProviderIntent] = []
    params = {"limit": str(_PAGE), "expand[]": "data.latest_charge"}
    while True:
        response = await client.get("/v1/payment_intents", params=params)
        page = msgspec.json.decode(response.raise_for_status().content, type=_IntentPage)
        found += [_parsed(each) for each in page.data if each.metadata.get("installation") == str(installation)]
        if not page.has_more:
            return found
        params["starting_after"] = page.data[-1].id


def _parsed(listed: _ListedIntent) -> ProviderIntent:
    refunded_cents = listed.latest_charge.amount_refunded if listed.latest_charge else 0
    return ProviderIntent(
        id=listed.id,
        status=listed.status,
        amount_cents=listed.amount,
        taken_cents=max(listed.amount_received - refunded_cents, 0),
        currency=listed.currency,
        order_id=UUID(listed.metadata["order_id"]),
        payment_id=UUID(listed.metadata["payment_id"]),
        refunded_cents=refunded_cents,
    )

"""The resources of orders: concurrent reservations share a statement."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from admitone.kernel.database.batching import Batcher
from admitone.kernel.http.operations import CREATED
from admitone.kernel.running import RunningService
from admitone.orders import store
from admitone.orders.store import Reservation, ReservationResult
from admitone.policy import MarketplacePolicy


@dataclass(frozen=True)
class Resources:
    reserve: Batcher[Reservation, ReservationResult]


@asynccontextmanager
async def open_resources(service: RunningService[None]) -> AsyncIterator[Resources]:
    hold_seconds = service.settings.read(MarketplacePolicy).hold_seconds

    async def reserve(reservations: Sequence[Reservation]) -> list[ReservationResult]:
        may_evict = service.bus.is_caught_up
        return await store.reserve_tickets(service.database, reservations, hold_seconds, CREATED, may_evict=may_evict)

    yield Resources(Batcher(reserve))

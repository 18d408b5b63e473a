"""The job of orders: it cancels overdue orders if no signal of their deadline came."""

import asyncio
import logging
from typing import Final

from admitone.kernel.running import RunningService
from admitone.orders import store
from admitone.orders.resources import Resources

log = logging.getLogger(__name__)

# Long enough for expiration to be first, short enough that its outage does not keep tickets locked.
GRACE_SECONDS: Final = 10.0
_PAUSE_SECONDS: Final = 2.0
_BATCH_MAX: Final = 200


async def cancel_overdue_orders(service: RunningService[Resources]) -> None:
    """Cancel orders that are overdue by more than the grace period, unless the bus may hold back their payments."""
    while True:
        while service.bus.is_caught_up and await _cancel_overdue(service) == _BATCH_MAX:
            pass
        await asyncio.sleep(_PAUSE_SECONDS)


async def _cancel_overdue(service: RunningService[Resources]) -> int:
    async with service.database.transaction() as tx:
        overdue = await store.overdue_orders(tx, GRACE_SECONDS, _BATCH_MAX)
        cancelled = [order.cancelled("expired") for order in overdue]
        await store.save_orders(tx, cancelled)
        for order in cancelled:
            log.warning("no signal came for an overdue order", extra={"order": order.id})
            tx.publish(order.event())
    return len(cancelled)

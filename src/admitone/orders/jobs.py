"""What orders does by itself: it ends overdue orders when no alarm came for them."""

import asyncio
import logging
from typing import Any, Final

from admitone.kernel.database.pool import UNREACHABLE
from admitone.kernel.errors import Unavailable
from admitone.kernel.running import RunningService
from admitone.orders import store

log = logging.getLogger(__name__)

# Long enough for the alarm clock to be first, short enough that a broken one does not keep tickets locked.
GRACE_SECONDS: Final = 10.0
_EVERY_SECONDS: Final = 2.0
_ORDERS_MAX: Final = 200


async def end_overdue_orders(service: RunningService[Any]) -> None:
    """Cancel orders that are overdue by more than the grace, for ever."""
    while True:
        try:
            while await _end_some(service) == _ORDERS_MAX:
                pass
        except (Unavailable, *UNREACHABLE) as error:
            log.warning("overdue orders wait for the database", extra={"error": repr(error)})
        await asyncio.sleep(_EVERY_SECONDS)


async def _end_some(service: RunningService[Any]) -> int:
    async with service.database.transaction() as tx:
        overdue = await store.overdue_orders(tx, GRACE_SECONDS, _ORDERS_MAX)
        for order in overdue:
            log.warning("no alarm came for an overdue order", extra={"order": order.id})
            await store.save(tx, order.cancelled("expired"))
    return len(overdue)

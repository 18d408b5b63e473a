"""The alarm itself: sleeps until the next deadline and tells orders about those that have passed."""

import asyncio
import logging
from typing import Any, Final

from admitone.events import OrderExpired
from admitone.expiration import store
from admitone.kernel.database.pool import UNREACHABLE
from admitone.kernel.errors import Unavailable
from admitone.kernel.running import RunningService

log = logging.getLogger(__name__)

_DEADLINES_MAX: Final = 500
# A deadline that comes in meanwhile is at least a second away, so this is soon enough to notice it.
_LOOK_ANYWAY_SECONDS: Final = 0.25
_TRY_AGAIN_SECONDS: Final = 0.5


async def ring(service: RunningService[Any]) -> None:
    """Ring every alarm when it is due, for ever, to the millisecond while the database answers."""
    while True:
        try:
            while await _ring_due(service) == _DEADLINES_MAX:
                pass
            seconds = await store.seconds_to_next(service.database)
            await asyncio.sleep(_LOOK_ANYWAY_SECONDS if seconds is None else min(max(seconds, 0), _LOOK_ANYWAY_SECONDS))
        except (Unavailable, *UNREACHABLE) as error:
            log.warning("alarms wait for the database", extra={"error": repr(error)})
            await asyncio.sleep(_TRY_AGAIN_SECONDS)


async def _ring_due(service: RunningService[Any]) -> int:
    async with service.database.transaction() as tx:
        due = await store.ring_due(tx, _DEADLINES_MAX)
        for order_id in due:
            tx.publish(OrderExpired(order_id=order_id))
    return len(due)

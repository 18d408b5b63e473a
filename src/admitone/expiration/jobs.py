"""The job that signals deadlines to orders."""

import asyncio
from typing import Final

from admitone.events import OrderExpired
from admitone.expiration import store
from admitone.kernel.running import RunningService

_BATCH_MAX: Final = 500
# The longest that a signal is late because another process has recorded its deadline.
_POLL_SECONDS: Final = 0.25


async def signal_deadlines(service: RunningService[None]) -> None:
    """Publish OrderExpired as soon as a deadline has passed, and repeatedly until the order is settled.

    Nothing is signalled during an outage of the bus, nor until its end has settled: the event that an order was paid in
    time may be waiting in the outbox of payments.
    """
    while True:
        while service.bus.is_caught_up and await _signal_due(service) == _BATCH_MAX:
            pass
        # Deadlines that pass during an outage wait for its end.
        seconds = await store.seconds_to_next_signal(service.database) if service.bus.is_caught_up else None
        await asyncio.sleep(_POLL_SECONDS if seconds is None else min(max(seconds, 0), _POLL_SECONDS))


async def _signal_due(service: RunningService[None]) -> int:
    async with service.database.transaction() as tx:
        due = await store.take_due_signals(tx, _BATCH_MAX)
        for order_id in due:
            tx.publish(OrderExpired(order_id=order_id))
    return len(due)

"""The expiration service: its subscriptions, its publication and its job. It has no routes."""

from typing import Final

from admitone import events
from admitone.expiration import handlers, jobs, store
from admitone.kernel.messaging.handlers import BatchHandler
from admitone.kernel.service import Gauge, Service

SERVICE: Final = Service(
    name="expiration",
    subscriptions={
        events.OrderCreated: BatchHandler(handlers.load, handlers.order_created, handlers.save),
        events.OrderAwaitingPayment: BatchHandler(handlers.load, handlers.order_settled, handlers.save),
        events.OrderCancelled: BatchHandler(handlers.load, handlers.order_settled, handlers.save),
    },
    publications=(events.OrderExpired,),
    jobs=(jobs.signal_deadlines,),
    gauges=(Gauge("admitone_signal_overdue_seconds", "How late the next signal is", store.seconds_overdue),),
)

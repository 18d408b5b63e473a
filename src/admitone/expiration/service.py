"""expiration, on one screen: what it hears, tells and does by itself. It serves nothing."""

from admitone import events
from admitone.expiration import handlers, jobs, store
from admitone.kernel.metrics import Gauge
from admitone.kernel.service import Service

SERVICE = Service(
    name="expiration",
    subscriptions={
        events.OrderCreated: handlers.order_created,
        events.OrderAwaitingPayment: handlers.order_settled,
        events.OrderCancelled: handlers.order_settled,
    },
    publications=(events.OrderExpired,),
    jobs=(jobs.ring,),
    gauges=(Gauge("admitone_alarm_overdue_seconds", "How late the next alarm is", store.seconds_overdue),),
)

"""orders, on one screen: what it serves, hears, tells and does by itself."""

from admitone import events
from admitone.kernel.http.sessions import session_revoked
from admitone.kernel.metrics import Gauge
from admitone.kernel.service import Service
from admitone.orders import api, handlers, jobs, store
from admitone.orders.resources import open_resources
from admitone.policy import MarketplacePolicy

SERVICE = Service(
    name="orders",
    operations=(api.reserve_ticket, api.list_orders, api.show_order, api.cancel_order),
    subscriptions={
        events.SessionRevoked: session_revoked,
        events.TicketCreated: handlers.ticket_created,
        events.TicketUpdated: handlers.ticket_updated,
        events.TicketLockRefused: handlers.ticket_lock_refused,
        events.OrderExpired: handlers.order_expired,
        events.PaymentAuthorized: handlers.payment_authorized,
        events.PaymentCreated: handlers.payment_created,
        events.PaymentFailed: handlers.payment_failed,
    },
    publications=(
        events.OrderCreated,
        events.OrderAwaitingPayment,
        events.OrderCompleted,
        events.OrderCancelled,
        events.PaymentRejected,
    ),
    jobs=(jobs.end_overdue_orders,),
    settings=(MarketplacePolicy,),
    lifespan=open_resources,
    gauges=(
        Gauge("admitone_orders", "Orders by status", store.count_by_status, label="status", every_seconds=60),
        Gauge("admitone_lock_overdue_seconds", "How late the oldest overdue lock is", store.seconds_overdue),
    ),
)

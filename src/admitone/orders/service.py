"""orders, on one screen: what it serves, hears, tells and does by itself."""

from admitone import events
from admitone.kernel.inbox import Together
from admitone.kernel.metrics import Gauge
from admitone.kernel.service import Service
from admitone.orders import api, handlers, jobs, store

SERVICE = Service(
    name="orders",
    operations=(api.reserve_ticket, api.list_orders, api.show_order, api.cancel_order),
    hears={
        events.TicketCreated: handlers.ticket_created,
        events.TicketUpdated: Together(handlers.usual_tickets_updated, handlers.ticket_updated),
        events.TicketLockRefused: handlers.ticket_lock_refused,
        events.OrderExpired: handlers.order_expired,
        events.PaymentAuthorized: Together(handlers.usual_payments_authorized, handlers.payment_authorized),
        events.PaymentCreated: Together(handlers.usual_payments_created, handlers.payment_created),
        events.PaymentFailed: handlers.payment_failed,
    },
    tells=(
        events.OrderCreated,
        events.OrderAwaitingPayment,
        events.OrderCompleted,
        events.OrderCancelled,
        events.PaymentRejected,
    ),
    jobs=(jobs.end_overdue_orders,),
    opens=api.reserving,
    gauges=(
        Gauge("admitone_orders", "Orders by status", store.count_by_status, label="status", every_seconds=60),
        Gauge("admitone_lock_overdue_seconds", "How late the oldest overdue lock is", store.seconds_overdue),
    ),
)

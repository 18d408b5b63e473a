"""orders, on one screen: what it serves, hears, tells and does by itself."""

from admitone import events
from admitone.kernel.service import Service
from admitone.orders import api, handlers, jobs

SERVICE = Service(
    name="orders",
    operations=(api.reserve_ticket, api.list_orders, api.show_order, api.cancel_order),
    hears={
        events.TicketCreated: handlers.ticket_created,
        events.TicketUpdated: handlers.ticket_updated,
        events.TicketLockRefused: handlers.ticket_lock_refused,
        events.OrderExpired: handlers.order_expired,
        events.PaymentAuthorized: handlers.payment_authorized,
        events.PaymentCreated: handlers.payment_created,
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
)

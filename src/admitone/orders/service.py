"""The orders service: its routes, subscriptions, publications, job and gauges."""

from typing import Final

from admitone import events
from admitone.kernel.http.sessions import session_revoked
from admitone.kernel.messaging.handlers import BatchHandler
from admitone.kernel.messaging.snapshots import Snapshots
from admitone.kernel.service import Gauge, Service
from admitone.orders import api, handlers, jobs, store
from admitone.orders.handlers import load_orders, load_orders_and_tickets, load_replicas, save_orders, save_replicas
from admitone.orders.resources import open_resources
from admitone.policy import MarketplacePolicy

SERVICE: Final = Service(
    name="orders",
    operations=(api.reserve_ticket, api.list_orders, api.show_order, api.cancel_order),
    subscriptions={
        events.SessionRevoked: session_revoked,
        events.TicketCreated: BatchHandler(load_replicas, handlers.ticket_changed, save_replicas),
        events.TicketUpdated: BatchHandler(load_replicas, handlers.ticket_changed, save_replicas),
        events.TicketLockRefused: BatchHandler(load_orders, handlers.ticket_lock_refused, save_orders),
        events.OrderExpired: BatchHandler(load_orders, handlers.order_expired, save_orders),
        events.PaymentAuthorized: BatchHandler(load_orders_and_tickets, handlers.payment_authorized, save_orders),
        events.PaymentCreated: BatchHandler(load_orders, handlers.payment_created, save_orders),
        events.PaymentFailed: BatchHandler(load_orders, handlers.payment_failed, save_orders),
    },
    publications=(
        events.OrderCreated,
        events.OrderAwaitingPayment,
        events.OrderCompleted,
        events.OrderCancelled,
        events.PaymentRejected,
    ),
    snapshots=(Snapshots(store.order_ids_after, handlers.snapshots),),
    rebuilds={
        events.OrderCreated: handlers.rebuild_new_order,
        events.OrderAwaitingPayment: handlers.rebuild_order,
        events.OrderCompleted: handlers.rebuild_order,
        events.OrderCancelled: handlers.rebuild_order,
    },
    jobs=(jobs.cancel_overdue_orders,),
    settings=(MarketplacePolicy,),
    lifespan=open_resources,
    gauges=(
        Gauge("admitone_orders", "Unpaid orders that hold a ticket", store.count_unpaid, label="status"),
        Gauge("admitone_lock_overdue_seconds", "How late the most overdue lock is", store.seconds_overdue),
    ),
)

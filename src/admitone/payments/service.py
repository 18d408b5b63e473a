"""The payments service on one screen: its routes, subscriptions, publications, jobs, settings and gauges."""

from admitone import events
from admitone.kernel.http.sessions import session_revoked
from admitone.kernel.messaging.handlers import BatchHandler
from admitone.kernel.messaging.snapshots import Snapshots
from admitone.kernel.service import Gauge, Service
from admitone.payments import api, handlers, jobs, store
from admitone.payments.resources import PaymentSettings, open_resources

SERVICE = Service(
    name="payments",
    operations=(api.pay_order, api.list_payments, api.receive_webhook),
    subscriptions={
        events.SessionRevoked: session_revoked,
        events.OrderCreated: BatchHandler(handlers.load_nothing, handlers.order_created, store.add_orders),
        events.OrderAwaitingPayment: BatchHandler(handlers.load, handlers.order_awaiting_payment, handlers.save),
        events.OrderCancelled: BatchHandler(handlers.load, handlers.order_cancelled, handlers.save),
        events.PaymentRejected: BatchHandler(handlers.load, handlers.payment_rejected, handlers.save),
    },
    publications=(
        events.PaymentAuthorized,
        events.PaymentCreated,
        events.PaymentFailed,
        events.PaymentVoided,
        events.PaymentRefunded,
    ),
    snapshots=(Snapshots(store.paid_order_ids_after, handlers.snapshots),),
    rebuilds={
        events.PaymentAuthorized: handlers.rebuild_held_payment,
        events.PaymentCreated: handlers.rebuild_held_payment,
        events.PaymentFailed: handlers.rebuild_ended_payment,
        events.PaymentVoided: handlers.rebuild_ended_payment,
        events.PaymentRefunded: handlers.rebuild_ended_payment,
    },
    jobs=(jobs.settle_payments, jobs.process_webhooks, jobs.reconcile_payments),
    settings=(PaymentSettings,),
    lifespan=open_resources,
    reaches_internet=True,
    gauges=(
        Gauge("admitone_payment_unsettled_seconds", "Age of the oldest unsettled payment", store.seconds_unsettled),
        Gauge("admitone_webhooks_waiting", "Webhooks not processed yet", store.webhooks_waiting),
        Gauge("admitone_unknown_intents", "Intents at Stripe that no payment knows", store.unknown_intents),
    ),
)

"""payments, on one screen: what it serves, hears, tells and does by itself."""

from admitone import events
from admitone.kernel.inbox import Together
from admitone.kernel.metrics import Gauge
from admitone.kernel.service import Service
from admitone.payments import api, handlers, jobs, own, store

SERVICE = Service(
    name="payments",
    operations=(api.pay_order, api.list_payments, api.hear_stripe),
    hears={
        events.OrderCreated: Together(handlers.orders_created),
        events.OrderAwaitingPayment: Together(handlers.usual_orders_awaiting_payment, handlers.order_awaiting_payment),
        events.OrderCancelled: handlers.order_cancelled,
        events.PaymentRejected: handlers.payment_rejected,
    },
    tells=(
        events.PaymentAuthorized,
        events.PaymentCreated,
        events.PaymentFailed,
        events.PaymentVoided,
        events.PaymentRefunded,
    ),
    jobs=(jobs.settle_payments, jobs.work_off_webhooks, jobs.reconcile_payments),
    opens=own.opened,
    gauges=(
        Gauge(
            "admitone_payment_unsettled_seconds", "Age of the oldest open business at Stripe", store.seconds_unsettled
        ),
        Gauge("admitone_webhooks_waiting", "Messages of Stripe's not worked off yet", store.webhooks_waiting),
    ),
)

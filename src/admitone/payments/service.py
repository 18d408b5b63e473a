"""payments, on one screen: what it serves, hears, tells and does by itself."""

from admitone import events
from admitone.kernel.http.sessions import session_revoked
from admitone.kernel.metrics import Gauge
from admitone.kernel.service import Service
from admitone.payments import api, handlers, jobs, store
from admitone.payments.resources import PaymentSettings, open_resources

SERVICE = Service(
    name="payments",
    operations=(api.pay_order, api.list_payments, api.hear_stripe),
    subscriptions={
        events.SessionRevoked: session_revoked,
        events.OrderCreated: handlers.order_created,
        events.OrderAwaitingPayment: handlers.order_awaiting_payment,
        events.OrderCancelled: handlers.order_cancelled,
        events.PaymentRejected: handlers.payment_rejected,
    },
    publications=(
        events.PaymentAuthorized,
        events.PaymentCreated,
        events.PaymentFailed,
        events.PaymentVoided,
        events.PaymentRefunded,
    ),
    jobs=(jobs.settle_payments, jobs.work_off_webhooks, jobs.reconcile_payments),
    settings=(PaymentSettings,),
    lifespan=open_resources,
    reaches_internet=True,
    gauges=(
        Gauge(
            "admitone_payment_unsettled_seconds", "Age of the oldest open business at Stripe", store.seconds_unsettled
        ),
        Gauge("admitone_webhooks_waiting", "Messages of Stripe's not worked off yet", store.webhooks_waiting),
    ),
)

"""payments, on one screen: what it serves, hears, tells and does by itself."""

from admitone import events
from admitone.kernel.service import Service
from admitone.payments import api, handlers, jobs, own

SERVICE = Service(
    name="payments",
    operations=(api.pay_order, api.list_payments, api.hear_stripe),
    hears={
        events.OrderCreated: handlers.order_created,
        events.OrderAwaitingPayment: handlers.order_awaiting_payment,
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
)

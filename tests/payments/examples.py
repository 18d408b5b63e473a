"""An order and its first payment, for tests of the rules."""

from datetime import UTC, datetime, timedelta
from typing import Final

from admitone.kernel import ids
from admitone.payments.model import OrderReplica, Payment

NOW: Final = datetime(2026, 11, 21, 12, tzinfo=UTC)
ORDER: Final = OrderReplica(
    id=ids.new_id(),
    version=0,
    status="created",
    buyer_id=ids.new_id(),
    price_cents=1999,
    currency="usd",
    expires_at=NOW + timedelta(minutes=15),
)
BEGUN: Final = Payment(
    id=ids.new_id(),
    order_id=ORDER.id,
    attempt=1,
    buyer_id=ORDER.buyer_id,
    amount_cents=1999,
    currency="usd",
    token="tok_visa",
    idempotency_key=None,
    created_at=NOW,
    due_at=NOW + timedelta(seconds=30),
)

"""The invariants of orders."""

from uuid import uuid4

from tests.invariants.support import Copies


async def test_i1_two_orders_for_one_ticket(copies: Copies) -> None:
    await copies.damage("orders", "DROP INDEX one_live_order_per_ticket")
    await copies.damage(
        "orders",
        "INSERT INTO orders (id, buyer_id, ticket_id, ticket_version, title, price_cents, currency, expires_at) "
        "SELECT $1, buyer_id, ticket_id, ticket_version, title, price_cents, currency, expires_at "
        "FROM orders WHERE status = 'complete'",
        uuid4(),
    )
    findings = await copies.check()
    assert findings["I1"].samples() == [f"ticket {copies.trade.sold.ticket} has 2 orders at once"]


async def test_i6_an_order_past_its_deadline(copies: Copies) -> None:
    await copies.damage("orders", "UPDATE orders SET expires_at = now() - interval '1 minute' WHERE status = 'created'")
    assert "I6" in await copies.violated()


async def test_i6_an_order_that_awaits_its_payment_for_an_hour(copies: Copies) -> None:
    await copies.damage(
        "orders",
        "UPDATE orders SET status = 'awaiting:payment', payment_id = gen_random_uuid() WHERE status = 'created'",
    )
    await copies.damage("orders", "UPDATE outbox SET recorded_at = now() - interval '1 hour'")
    assert "I6" in await copies.violated()


async def test_i12_an_order_that_expired_too_early(copies: Copies) -> None:
    await copies.damage("orders", "UPDATE orders SET cancel_reason = 'expired' WHERE status = 'cancelled'")
    assert await copies.violated() == {"I12"}


async def test_i13_a_seller_who_bought_their_own_ticket(copies: Copies) -> None:
    await copies.damage("orders", "UPDATE ticket SET seller_id = $1 WHERE status = 'sold'", copies.trade.bob)
    assert "I13" in await copies.violated()


async def test_i13_a_ticket_that_changed_its_owner(copies: Copies) -> None:
    await copies.damage(
        "tickets",
        "UPDATE outbox SET data = jsonb_set(data::jsonb, '{userId}', to_jsonb(gen_random_uuid()))::text "
        "WHERE version = 1",
    )
    assert await copies.violated() == {"I13"}

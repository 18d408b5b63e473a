"""The invariants of tickets."""

import msgspec

from tests.invariants.support import Copies


async def test_i7_a_sold_ticket_that_is_on_sale_again(copies: Copies) -> None:
    await copies.damage("tickets", "UPDATE ticket SET status = 'available', order_id = NULL WHERE status = 'sold'")
    assert "I7" in await copies.violated()


async def test_i7_a_ticket_locked_by_a_cancelled_order(copies: Copies) -> None:
    deal = copies.trade.cancelled
    sql = "UPDATE ticket SET status = 'reserved', order_id = $1 WHERE id = $2"
    await copies.damage("tickets", sql, deal.order, deal.ticket)
    assert {"I7", "I8"} <= await copies.violated()


async def test_i10_a_locked_ticket_that_was_edited(copies: Copies) -> None:
    for service in ("tickets", "orders"):
        await copies.damage(service, "UPDATE ticket SET price_cents = 1 + price_cents WHERE status = 'reserved'")
    assert await copies.violated() == {"I10"}


async def test_i10_a_locked_ticket_that_was_edited_and_restored(copies: Copies) -> None:
    await copies.damage(
        "tickets",
        "UPDATE outbox SET data = jsonb_set(data::jsonb, '{priceCents}', '1')::text "
        "WHERE data::jsonb ->> 'status' = 'sold'",
    )
    findings = await copies.check()
    assert "was edited while it was locked" in findings["I10"].samples()[0]


async def test_i10_an_order_that_keeps_another_offer_than_its_ticket_had(copies: Copies) -> None:
    await copies.damage("orders", "UPDATE orders SET seat = 'Z9' WHERE id = $1", copies.trade.cancelled.order)
    findings = await copies.check()
    assert "keeps another offer than its ticket had" in findings["I10"].samples()[0]


async def test_i10_a_ticket_locked_in_another_revision_than_was_ordered(copies: Copies) -> None:
    for service in ("tickets", "orders"):
        await copies.damage(service, "UPDATE ticket SET revision = 1 WHERE order_id = $1", copies.trade.sold.order)
    findings = await copies.check()
    assert "is for another revision than the ticket locked for it" in findings["I10"].samples()[0]
    assert {name for name, each in findings.items() if not each.holds} == {"I10"}


async def test_i10_another_price_than_the_buyer_was_shown(copies: Copies) -> None:
    history = [
        msgspec.structs.replace(each, price_cents=1) if each.action == "order" else each
        for each in copies.trade.history
    ]
    assert await copies.violated(history) == {"I10"}

"""Deadlines are set when an order is created and deleted when it cannot expire any more."""

from admitone.expiration import handlers
from admitone.kernel.runner import App
from tests.expiration.support import awaiting, cancelled, consume, created, deadlines


async def test_g11_a_settled_order_has_no_deadline(app: App) -> None:
    paid, given_up = created(seconds=60), created(seconds=60)
    await consume(app, paid, given_up)
    assert await deadlines(app) == 2
    await consume(app, awaiting(paid), cancelled(given_up))
    assert await deadlines(app) == 0


async def test_g11_orders_created_and_settled_in_one_batch_have_no_deadline(app: App) -> None:
    paid, given_up = created(seconds=60), created(seconds=60)
    await consume(app, paid, given_up, awaiting(paid), cancelled(given_up))
    assert await deadlines(app) == 0


async def test_g11_events_in_the_wrong_sequence_wait_for_the_first(app: App) -> None:
    order = created(seconds=60)
    [missing] = await consume(app, cancelled(order))
    assert (missing.producer, missing.aggregate) == ("orders", order.id)
    assert await consume(app, order, cancelled(order)) == []
    assert await deadlines(app) == 0


async def test_g13_repeated_events_set_no_second_deadline(app: App) -> None:
    order = created(seconds=60)
    await consume(app, order, cancelled(order), order, order)
    assert await deadlines(app) == 0


async def test_an_order_that_another_replica_settled_meanwhile_gets_no_deadline(app: App) -> None:
    """Two replicas of the service may handle copies of one event that have different ids."""
    order = created(seconds=60)
    database = app.running["expiration"].database
    async with database.transaction() as tx:
        batch = await handlers.load(tx, [order])
        await consume(app, order, cancelled(order))
        handlers.order_created(tx, batch, order)
        await handlers.save(tx, batch)
    assert await deadlines(app) == 0

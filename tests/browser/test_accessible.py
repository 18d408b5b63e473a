"""Accessibility: axe finds no violation on any page in any state, narrow and wide, light and dark."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import asyncpg
import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, expect

from admitone.kernel import ids
from admitone.payments.resources import PaymentSettings
from tests.browser.conftest import running_marketplace
from tests.browser.visitors import Visitor, Visitors, failing_provider

# A browser must be used in the event loop in which it was started.
pytestmark = pytest.mark.asyncio(loop_scope="session")

Looks = Sequence[tuple[int, str]]
# All of axe's rules for WCAG 2.2 AA and best practice, including those that are off by default.
RULES = {
    "runOnly": {
        "type": "tag",
        "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    },
    "rules": {"target-size": {"enabled": True}},
}
FULL = {
    "eventDate": "2027-07-01T20:30:00Z",
    "venue": "Clube de Fado, Lisbon",
    "section": "Balcony left",
    "row": "3",
    "seat": "12",
    "note": "A printed ticket, handed over at the door.",
}

State = Callable[[Visitors], Awaitable[Visitor]]
STATES: dict[str, State] = {}


def state(reach: State) -> State:
    """Register how to reach a state of a page; the function's name says which state."""
    STATES[reach.__name__] = reach
    return reach


@pytest.fixture(
    params=[
        pytest.param(((320, "dark"), (1280, "light")), id="each"),
        pytest.param(
            ((320, "light"), (1280, "dark")), id="the other way round", marks=[pytest.mark.proof, pytest.mark.full]
        ),
    ]
)
def looks(request: pytest.FixtureRequest) -> Looks:
    """Every width and every theme; the long lane has every pair of them."""
    chosen: Looks = request.param
    return chosen


async def check(visitor: Visitor, looks: Looks) -> None:
    """Check the page in these widths and themes."""
    for width, theme in looks:
        await visitor.page.set_viewport_size({"width": width, "height": 800})
        await visitor.page.emulate_media(color_scheme=theme, reduced_motion="reduce")  # type: ignore[arg-type]
        found = await Axe().run(visitor.page, options=RULES)
        assert found.violations_count == 0, f"{width} {theme}: {found.generate_report()}"
        overflow = await visitor.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert overflow <= 0, f"{width} {theme}: {overflow} pixels to the right of the screen"


@state
async def the_list(visitors: Visitors) -> Visitor:
    alice, carol = await visitors.signed_in("alice"), await visitors.signed_out()
    word = f"evening{ids.new_token(4)}"
    await alice.list_ticket(f"Fado {word}", **FULL)
    await alice.list_ticket(f"A very expensive {word} with a rather long title", "12500.00")
    await carol.go(f"/?q={word}")
    return carol


@state
async def the_list_signed_in_with_a_ticket_being_bought(visitors: Visitors) -> Visitor:
    alice, bob, carol = await visitors.all_signed_in("alice", "bob", "carol")
    ticket = await alice.list_ticket("Fado night", **FULL)
    await carol.go("/?q=Fado")
    await bob.reserve(ticket)
    await expect(carol.page.locator(f'[data-ticket="{ticket}"] .ticket-word')).to_have_text("Being bought")
    return carol


@state
async def a_search_without_results(visitors: Visitors) -> Visitor:
    carol = await visitors.signed_out()
    await carol.go("/?q=nobodyliststhis")
    return carol


@state
async def signing_up(visitors: Visitors) -> Visitor:
    carol = await visitors.signed_out()
    await carol.go("/auth/signup")
    return carol


@state
async def signing_in_with_errors(visitors: Visitors) -> Visitor:
    carol = await visitors.signed_out()
    await carol.go("/auth/signin?next=/tickets/new")
    await carol.page.get_by_role("button", name="Sign in").click()
    await expect(carol.page.get_by_role("alert")).to_be_visible()
    return carol


@state
async def signing_out(visitors: Visitors) -> Visitor:
    alice = await visitors.signed_in("alice")
    await alice.go("/auth/signout")
    return alice


@state
async def signed_out(visitors: Visitors) -> Visitor:
    carol = await visitors.signed_out()
    await carol.go("/auth/signout")
    return carol


@state
async def the_account(visitors: Visitors) -> Visitor:
    alice = await visitors.signed_in("alice")
    await alice.go("/account?done=email")
    return alice


@state
async def a_new_listing(visitors: Visitors) -> Visitor:
    alice = await visitors.signed_in("alice")
    await alice.go("/tickets/new")
    return alice


@state
async def a_new_listing_with_errors(visitors: Visitors) -> Visitor:
    alice = await visitors.signed_in("alice")
    await alice.go("/tickets/new")
    await alice.page.get_by_role("button", name="List the ticket").click()
    await expect(alice.page.get_by_role("alert")).to_be_visible()
    return alice


@state
async def an_edit(visitors: Visitors) -> Visitor:
    alice = await visitors.signed_in("alice")
    await alice.go(f"/tickets/{await alice.list_ticket('Fado night', **FULL)}/edit")
    return alice


@state
async def a_locked_edit(visitors: Visitors) -> Visitor:
    alice, bob = await visitors.all_signed_in("alice", "bob")
    ticket = await alice.list_ticket("Fado night", **FULL)
    await alice.go(f"/tickets/{ticket}/edit")
    await bob.reserve(ticket)
    await expect(alice.page.get_by_label("Title")).to_be_disabled()
    return alice


@state
async def no_listings_of_the_user(visitors: Visitors) -> Visitor:
    alice = await visitors.signed_in("alice")
    await alice.go("/sell")
    return alice


@state
async def listings_of_the_user(visitors: Visitors) -> Visitor:
    alice, bob = await visitors.all_signed_in("alice", "bob")
    await alice.list_ticket("Fado night", **FULL)
    ticket = await alice.list_ticket("Being bought", **FULL)
    await bob.reserve(ticket)
    await alice.go("/sell")
    await expect(alice.page.get_by_text("Being bought").first).to_be_visible()
    return alice


@state
async def a_ticket_signed_out(visitors: Visitors) -> Visitor:
    alice, carol = await visitors.signed_in("alice"), await visitors.signed_out()
    await carol.go(f"/tickets/{await alice.list_ticket('Fado night', **FULL)}")
    return carol


@state
async def a_ticket_that_can_be_bought(visitors: Visitors) -> Visitor:
    alice, bob = await visitors.all_signed_in("alice", "bob")
    await bob.go(f"/tickets/{await alice.list_ticket('Fado night')}")
    return bob


@state
async def a_ticket_of_the_user(visitors: Visitors) -> Visitor:
    alice = await visitors.signed_in("alice")
    await alice.go(f"/tickets/{await alice.list_ticket('Fado night', **FULL)}")
    return alice


@state
async def a_ticket_of_the_user_being_bought(visitors: Visitors) -> Visitor:
    alice, bob = await visitors.all_signed_in("alice", "bob")
    ticket = await alice.list_ticket("Fado night", **FULL)
    await bob.reserve(ticket)
    await alice.go(f"/tickets/{ticket}")
    await expect(alice.page.get_by_role("heading", name="being bought")).to_be_visible()
    return alice


@state
async def a_ticket_being_bought(visitors: Visitors) -> Visitor:
    alice, bob, carol = await visitors.all_signed_in("alice", "bob", "carol")
    ticket = await alice.list_ticket("Fado night", **FULL)
    await bob.reserve(ticket)
    await carol.go(f"/tickets/{ticket}")
    await expect(carol.page.get_by_role("heading", name="Being bought")).to_be_visible()
    return carol


@state
async def a_ticket_held_for_the_user(visitors: Visitors) -> Visitor:
    alice, bob = await visitors.all_signed_in("alice", "bob")
    ticket = await alice.list_ticket("Fado night", **FULL)
    await bob.reserve(ticket)
    await bob.go(f"/tickets/{ticket}")
    await expect(bob.page.get_by_role("heading", name="You are holding this ticket")).to_be_visible()
    return bob


@state
async def a_sold_ticket(visitors: Visitors) -> Visitor:
    bob = await a_purchase(visitors)
    carol = await visitors.signed_out()
    shown = (await bob.client.get(f"/api/orders/{bob.path.rpartition('/')[2]}")).json()
    await carol.go(f"/tickets/{shown['ticket']['id']}")
    await expect(carol.page.get_by_role("heading", name="Sold")).to_be_visible()
    return carol


@state
async def a_lost_race(visitors: Visitors) -> Visitor:
    alice, bob, carol = await visitors.all_signed_in("alice", "bob", "carol")
    ticket = await alice.list_ticket("Fado night", **FULL)
    await alice.list_ticket("Fado night, second row", **FULL)
    carol.may_fail_requests = True
    await carol.page.route("**/live?*", lambda route: route.abort())
    await carol.go(f"/tickets/{ticket}")
    await bob.reserve(ticket)
    await carol.page.get_by_role("button", name="Buy for").click()
    await expect(carol.page.get_by_role("heading", name="Someone was faster")).to_be_visible()
    return carol


@state
async def no_orders_of_the_user(visitors: Visitors) -> Visitor:
    bob = await visitors.signed_in("bob")
    await bob.go("/orders")
    return bob


@state
async def orders_of_the_user(visitors: Visitors) -> Visitor:
    alice, bob = await visitors.all_signed_in("alice", "bob")
    cancelled = await bob.reserve(await alice.list_ticket("Fado night"))
    await bob.client.delete(f"/api/orders/{cancelled}")
    await bob.reserve(await alice.list_ticket("Another night"))
    await bob.go("/orders")
    return bob


@state
async def an_order_to_pay(visitors: Visitors) -> Visitor:
    alice, bob = await visitors.all_signed_in("alice", "bob")
    await bob.buy(await alice.list_ticket("Fado night", **FULL))
    return bob


@state
async def an_order_with_a_declined_card(visitors: Visitors) -> Visitor:
    bob = await an_order_to_pay(visitors)
    await bob.page.get_by_role("button", name="A card that is declined").click()
    await expect(bob.page.get_by_role("alert")).to_be_visible()
    return bob


@state
async def an_order_to_confirm_with_the_bank(visitors: Visitors) -> Visitor:
    bob = await an_order_to_pay(visitors)
    await bob.page.get_by_role("button", name="A card that asks back").click()
    await expect(bob.page.get_by_role("link", name="Confirm the payment")).to_be_visible()
    return bob


@state
async def a_purchase(visitors: Visitors) -> Visitor:
    bob = await an_order_to_pay(visitors)
    await bob.page.get_by_role("button", name="A card that works").click()
    await expect(bob.page.get_by_role("heading", name="It is yours")).to_be_visible()
    return bob


@state
async def a_cancelled_order(visitors: Visitors) -> Visitor:
    bob = await an_order_to_pay(visitors)
    await bob.page.get_by_role("button", name="Cancel, I do not want it").click()
    await expect(bob.page.get_by_role("button", name="Try to reserve again")).to_be_visible()
    return bob


@state
async def an_order_out_of_payment_attempts(visitors: Visitors) -> Visitor:
    bob = await an_order_to_pay(visitors)
    heading = bob.page.get_by_role("heading", name="The payment did not go through")
    for _ in range(visitors.market.settings.read(PaymentSettings).payment_attempts):
        await bob.page.get_by_role("button", name="A card that is declined").click()
        await expect(heading).to_be_visible()
    await expect(bob.page.get_by_role("button", name="Try to reserve again")).to_be_visible()
    return bob


@state
async def a_ticket_whose_price_changed(visitors: Visitors) -> Visitor:
    alice, bob = await visitors.all_signed_in("alice", "bob")
    bob.may_fail_requests = True
    await bob.page.route("**/live?*", lambda route: route.abort())
    ticket = await alice.list_ticket("Fado night", **FULL)
    await bob.go(f"/tickets/{ticket}")
    await alice.client.put(f"/api/tickets/{ticket}", json={"title": "Fado night", "price": 25})
    await bob.page.get_by_role("button", name="Buy for").click()
    await expect(bob.page.get_by_role("heading", name="The price changed since you looked")).to_be_visible()
    return bob


@state
async def a_page_that_does_not_exist(visitors: Visitors) -> Visitor:
    carol = await visitors.signed_out()
    await carol.go("/nothing/here")
    return carol


@state
async def an_order_of_another_user(visitors: Visitors) -> Visitor:
    alice, bob, carol = await visitors.all_signed_in("alice", "bob", "carol")
    await carol.go(f"/orders/{await bob.reserve(await alice.list_ticket('Fado night'))}")
    return carol


@pytest.mark.parametrize("name", list(STATES))
async def test_axe_finds_nothing(visitors: Visitors, name: str, looks: Looks) -> None:
    await check(await STATES[name](visitors), looks)


async def test_axe_finds_nothing_while_the_payment_provider_is_down(visitors: Visitors, looks: Looks) -> None:
    bob = await an_order_to_pay(visitors)
    async with failing_provider(visitors.market):
        await bob.page.get_by_role("button", name="A card that works").click()
        waiting = bob.page.get_by_role("heading", name="Confirming your payment")
        unreachable = bob.page.get_by_role("heading", name="The payment could not be sent")
        await expect(waiting.or_(unreachable)).to_be_visible(timeout=20_000)
        await check(bob, looks)


@asynccontextmanager
async def _database_changed(visitors: Visitors, service: str, change: str, revert: str) -> AsyncIterator[None]:
    """Change a service's database inside the block."""
    connection = await asyncpg.connect(visitors.market.settings.migrator_urls[service])
    try:
        await connection.execute(change)
        try:
            yield
        finally:
            await connection.execute(revert)
    finally:
        await connection.close()


async def test_axe_finds_nothing_while_a_database_does_not_respond(visitors: Visitors, looks: Looks) -> None:
    carol = await visitors.signed_out()
    async with _database_changed(visitors, "tickets", "BEGIN; LOCK TABLE ticket", "ROLLBACK"):
        await carol.go("/")
        assert await carol.heading() == "We cannot answer just now"
        await check(carol, looks)


async def test_axe_finds_nothing_when_a_row_is_corrupt(visitors: Visitors, looks: Looks) -> None:
    alice, carol = await visitors.signed_in("alice"), await visitors.signed_out()
    ticket = await alice.list_ticket("Fado night")
    corrupt = f"""
        ALTER TABLE ticket DISABLE TRIGGER guard_ticket;
        UPDATE ticket SET shown = {{}} WHERE id = '{ticket}';
        ALTER TABLE ticket ENABLE TRIGGER guard_ticket;
    """
    async with _database_changed(visitors, "tickets", corrupt.format("'{}'"), corrupt.format("shown_ticket(ticket)")):
        await carol.go(f"/tickets/{ticket}")
        assert await carol.heading() == "Something went wrong on our side"
        await check(carol, looks)


async def test_axe_finds_nothing_when_a_payment_cannot_be_sent(visitors: Visitors, looks: Looks) -> None:
    bob = await an_order_to_pay(visitors)
    async with _database_changed(visitors, "payments", "BEGIN; LOCK TABLE payment", "ROLLBACK"):
        await bob.page.get_by_role("button", name="A card that works").click()
        await expect(bob.page.get_by_role("heading", name="The payment could not be sent")).to_be_visible()
        await check(bob, looks)


async def test_axe_finds_nothing_when_the_hold_expired(short_hold_visitors: Visitors, looks: Looks) -> None:
    bob = await an_order_to_pay(short_hold_visitors)
    await expect(bob.page.get_by_role("heading", name="Time ran out")).to_be_visible()
    await check(bob, looks)


async def test_axe_finds_nothing_when_nothing_is_on_sale(chromium: Browser, looks: Looks) -> None:
    with running_marketplace() as empty:
        async with Visitors(chromium, empty) as visitors:
            carol = await visitors.signed_out()
            await carol.go("/")
            await expect(carol.page.get_by_role("heading", name="Nothing is on sale right now")).to_be_visible()
            await check(carol, looks)
            assert visitors.problems() == []

"""The listings and the page of a ticket with a browser, and their live updates."""

import asyncio
import time
from collections.abc import Callable

import pytest
from playwright.async_api import Route, expect

from admitone.kernel import ids
from tests.browser.visitors import Visitor, Visitors

# A browser must be used in the event loop in which it was started.
pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_carol_searches_sorts_and_clears_the_search(visitors: Visitors) -> None:
    alice, carol = await visitors.signed_in("alice"), await visitors.signed_out()
    word = f"fado{ids.new_token(4)}"
    for price in ("30", "10", "20"):
        await alice.list_ticket(f"{word} for {price}", price)
    await carol.go("/")
    await carol.page.get_by_label("Search tickets").fill(word)
    await carol.page.get_by_role("button", name="Search").click()
    titles = carol.page.locator(".ticket-title")
    await expect(titles).to_have_text([f"{word} for 20", f"{word} for 10", f"{word} for 30"])
    await carol.page.get_by_role("link", name="Cheapest").click()
    await expect(titles).to_have_text([f"{word} for 10", f"{word} for 20", f"{word} for 30"])
    await carol.page.get_by_role("link", name="Clear search").click()
    await expect(carol.page.get_by_label("Search tickets")).to_have_value("")

    await carol.page.get_by_label("Search tickets").fill("nobody lists this")
    await carol.page.get_by_role("button", name="Search").click()
    await expect(carol.page.get_by_role("heading", name="No ticket matches")).to_be_visible()


async def test_tickets_beyond_the_first_page_are_on_the_next(visitors: Visitors) -> None:
    alice, carol = await visitors.signed_in("alice"), await visitors.signed_out()
    word = f"series{ids.new_token(4)}"
    for number in range(53):
        await alice.list_ticket(f"{word} number {number}")
    await carol.go(f"/?q={word}")
    await expect(carol.page.locator(".ticket")).to_have_count(50)
    await carol.page.get_by_role("link", name="More tickets").click()
    await expect(carol.page.locator(".ticket")).to_have_count(3)
    await carol.page.get_by_role("link", name="Back to the first tickets").click()
    await expect(carol.page.locator(".ticket")).to_have_count(50)


_RECORD_WHEN_SHOWN = """
([selector, wanted]) => {
  window.shownAt = new Promise((resolve) => {
    const check = () => {
      if (document.querySelector(selector)?.textContent.includes(wanted)) resolve(Date.now());
    };
    new MutationObserver(check).observe(document.body, { subtree: true, childList: true, characterData: true });
  });
}
"""


async def test_a_second_browser_shows_a_lock_within_a_second_and_nothing_moves(
    visitors: Visitors, record_property: Callable[[str, object], None]
) -> None:
    alice, bob = await visitors.all_signed_in("alice", "bob")
    carol = await visitors.signed_out()
    word = f"live{ids.new_token(4)}"
    ticket = await alice.list_ticket(f"{word} evening")
    await alice.list_ticket(f"{word} matinee")
    await carol.go(f"/?q={word}")
    await carol.page.evaluate(_RECORD_WHEN_SHOWN, [f'[data-ticket="{ticket}"] .ticket-word', "Being bought"])

    started_at = time.time()
    order = await bob.reserve(ticket)
    shown_at = await carol.page.evaluate("window.shownAt") / 1000
    record_property("seconds until a second browser shows a lock", round(shown_at - started_at, 3))
    assert shown_at - started_at < 1.0

    await bob.client.delete(f"/api/orders/{order}")
    await expect(carol.page.locator(f'[data-ticket="{ticket}"] .ticket-word')).to_have_text("Admit one")
    assert await carol.shifts() == []


@pytest.mark.parametrize(
    ("zone", "style", "text"),
    [
        ("Asia/Tokyo", "", "Fri, 2 Jul 2027, 05:30 GMT+9"),
        ("Australia/Eucla", "", "Fri, 2 Jul 2027, 05:15 GMT+8:45"),
        ("Australia/Eucla", "time { font-size: 2em }", "Fri, 2 Jul 2027, 05:15 GMT+8:45"),
        ("UTC", "time { font-size: 0.5em }", "Thu, 1 Jul 2027, 20:30 UTC"),
    ],
    ids=["a short zone", "a long zone", "a wide font", "a narrow font"],
)
async def test_times_are_shown_in_the_readers_zone_and_nothing_moves(
    visitors: Visitors, zone: str, style: str, text: str
) -> None:
    alice, bob = await visitors.all_signed_in("alice", "bob")
    carol = await visitors.signed_in("carol", timezone_id=zone)
    await _add_style(carol, style)
    word = f"time{ids.new_token(4)}"
    for number in range(6):
        await alice.list_ticket(f"{word} {number}", eventDate="2027-07-01T20:30:00Z", venue="Harbour Hall")
    ticket = await carol.list_ticket(f"{word} of carol", eventDate="2027-07-01T20:30:00Z")
    order = await carol.reserve(await bob.list_ticket(word))
    _, _, zone_name = text.rpartition(" ")
    for path, shown in [
        (f"/?q={word}", text),
        (f"/tickets/{ticket}", text),
        ("/sell", zone_name),
        ("/orders", zone_name),
        (f"/orders/{order}", zone_name),
    ]:
        await carol.go(path)
        await expect(carol.page.locator("main time").first).to_contain_text(shown)
        assert await carol.shifts() == [], path


async def _add_style(visitor: Visitor, style: str) -> None:
    """Append rules to the stylesheet that a visitor's browser loads."""

    async def fulfill(route: Route) -> None:
        response = await route.fetch()
        await route.fulfill(response=response, body=f"{await response.text()}\n{style}")

    await visitor.page.route("**/style.css", fulfill)


async def test_a_new_ticket_is_announced_without_moving_the_list(visitors: Visitors) -> None:
    alice, carol = await visitors.signed_in("alice"), await visitors.signed_out()
    await alice.list_ticket("Already there")
    await carol.go("/")
    await alice.list_ticket("Brand new")
    await expect(carol.page.get_by_role("link", name="new ticket")).to_be_visible()
    assert await carol.shifts() == []
    await carol.page.get_by_role("link", name="new ticket").click()
    await expect(carol.page.get_by_role("link", name="Brand new").first).to_be_visible()


async def test_the_page_of_a_ticket_shows_it_being_bought_and_available_again(visitors: Visitors) -> None:
    alice, bob = await visitors.all_signed_in("alice", "bob")
    carol = await visitors.signed_in("carol")
    ticket = await alice.list_ticket("Fado night")
    await carol.go(f"/tickets/{ticket}")
    await expect(carol.page.get_by_role("button", name="Buy for $19.50")).to_be_enabled()
    await expect(carol.page.get_by_text("held for you for 15 minutes")).to_be_visible()
    order = await bob.reserve(ticket)
    await expect(carol.page.get_by_role("heading", name="Being bought")).to_be_visible()
    await expect(carol.page.get_by_role("button", name="Buy for $19.50")).to_be_disabled()
    await bob.client.delete(f"/api/orders/{order}")
    await expect(carol.page.get_by_role("button", name="Buy for $19.50")).to_be_enabled()
    assert await carol.shifts() == []


async def test_the_page_of_a_ticket_shows_a_new_price_at_once(visitors: Visitors) -> None:
    alice, carol = await visitors.all_signed_in("alice", "carol")
    ticket = await alice.list_ticket("Fado night", "20")
    await carol.go(f"/tickets/{ticket}")
    await alice.client.put(f"/api/tickets/{ticket}", json={"title": "Fado night", "price": 25})
    await expect(carol.page.get_by_role("button", name="Buy for $25.00")).to_be_visible()


async def test_typed_text_and_the_focus_survive_a_live_update(visitors: Visitors) -> None:
    alice, bob = await visitors.all_signed_in("alice", "bob")
    carol = await visitors.signed_out()
    ticket = await alice.list_ticket("Fado night")
    await carol.go(f"/tickets/{ticket}")
    await carol.page.get_by_role("link", name="Sign in to buy").focus()
    order = await bob.reserve(ticket)
    await expect(carol.page.get_by_role("heading", name="Being bought")).to_be_visible()
    await expect(carol.page.locator("main")).to_be_focused()
    await bob.client.delete(f"/api/orders/{order}")
    await expect(carol.page.get_by_role("link", name="Sign in to buy")).to_be_visible()

    await carol.go("/")
    await carol.page.get_by_label("Search tickets").fill("half a wo")
    await carol.page.evaluate(
        """() => {
            document.getElementById("main").dataset.before = "";
            window.dispatchEvent(new PageTransitionEvent("pageshow", { persisted: true }));
        }"""
    )
    await expect(carol.page.locator("#main:not([data-before])")).to_be_attached()
    await expect(carol.page.get_by_label("Search tickets")).to_have_value("half a wo")
    await expect(carol.page.get_by_label("Search tickets")).to_be_focused()


async def test_a_page_that_was_offline_catches_up(visitors: Visitors) -> None:
    alice, bob = await visitors.all_signed_in("alice", "bob")
    carol = await visitors.signed_out()
    ticket = await alice.list_ticket("Fado night")
    await carol.go(f"/tickets/{ticket}")
    carol.may_fail_requests = True
    await carol.context.set_offline(True)
    await bob.reserve(ticket)
    await carol.context.set_offline(False)
    await expect(carol.page.get_by_role("heading", name="Being bought")).to_be_visible()


async def test_a_page_says_that_it_is_offline_until_the_live_connection_is_back(visitors: Visitors) -> None:
    alice, bob = await visitors.all_signed_in("alice", "bob")
    order = await bob.reserve(await alice.list_ticket("Fado night"))
    bob.may_fail_requests = True
    failures = 0

    async def cut(route: Route) -> None:
        nonlocal failures
        failures += 1
        await route.abort()

    await bob.page.route("**/live?*", cut)
    await bob.go(f"/orders/{order}")
    notice = bob.page.get_by_text("Reconnecting")
    await expect(notice).to_be_visible()
    assert failures > 1
    await bob.page.unroute("**/live?*")
    await expect(notice).to_be_hidden()


@pytest.mark.parametrize("failure", ["network", "unavailable"])
async def test_an_update_that_cannot_be_fetched_is_fetched_again(visitors: Visitors, failure: str) -> None:
    """The message that announces a change comes once, so the page must not depend on the first fetch after it."""
    alice, bob = await visitors.all_signed_in("alice", "bob")
    carol = await visitors.signed_out()
    ticket = await alice.list_ticket("Fado night")
    await carol.go(f"/tickets/{ticket}")
    failed = asyncio.Event()

    async def fail(route: Route) -> None:
        await (route.abort() if failure == "network" else route.fulfill(status=503))
        failed.set()

    carol.may_fail_requests = True
    await carol.page.route(f"**/tickets/{ticket}", fail, times=2)
    await bob.reserve(ticket)
    await expect(carol.page.get_by_role("heading", name="Being bought")).to_be_visible()
    assert failed.is_set()


async def test_an_unknown_path_shows_an_error_page(visitors: Visitors) -> None:
    carol = await visitors.signed_out()
    await carol.go("/nothing/here")
    assert await carol.heading() == "There is no such page"
    await carol.go("/tickets/not-an-id")
    assert await carol.heading() == "There is no such page"

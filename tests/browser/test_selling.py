"""Listing tickets and editing them, with a browser."""

import re

import pytest
from playwright.async_api import expect

from tests.browser.visitors import PASSWORD, Visitors

# A browser must be used in the event loop in which it was started.
pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_alice_lists_a_ticket_and_sees_a_preview(visitors: Visitors) -> None:
    alice = await visitors.signed_in("alice", timezone_id="Europe/Lisbon")
    await alice.go("/tickets/new")
    page = alice.page
    await page.get_by_label("Title").fill("Fado night")
    await page.get_by_label("Price").fill("19,5")
    await page.get_by_label("When is it?").fill("2027-07-01T21:30")
    await page.get_by_label("Where?").fill("Clube de Fado")
    await page.get_by_label("Seat").fill("12")
    await expect(page.get_by_label("Price")).to_have_value("19.50")
    preview = page.get_by_label("How buyers will see it")
    await expect(preview.get_by_role("heading", name="Fado night")).to_be_visible()
    await expect(preview.get_by_text("$19.50")).to_be_visible()
    await expect(preview.get_by_text("Clube de Fado")).to_be_visible()
    await page.get_by_role("button", name="List the ticket").click()

    await expect(page.get_by_role("heading", name="Your listing: on sale")).to_be_visible()
    await expect(page.locator("time").first).to_have_text(re.compile(r"Thu, 1 Jul 2027, 21:30"))
    await expect(page.locator("time").first).to_have_attribute("datetime", "2027-07-01T20:30:00+00:00")
    await alice.go("/sell")
    await expect(page.get_by_role("listitem")).to_contain_text(["Fado night"])
    await expect(page.get_by_role("listitem")).to_contain_text(["On sale"])


async def test_an_unclear_amount_is_explained_beside_the_field_before_the_form_is_sent(visitors: Visitors) -> None:
    alice = await visitors.signed_in("alice")
    await alice.go("/tickets/new")
    page = alice.page
    price, wrong = page.get_by_label("Price"), page.locator("#price-wrong")
    await price.press_sequentially("1,500")
    await page.keyboard.press("Tab")
    await expect(wrong).to_have_text("Price is not clear: 1,500 can mean 1500 or 1.50. Type one of these instead")
    await expect(price).to_have_accessible_description(re.compile("1,500 can mean 1500 or 1.50"))
    await expect(price).to_have_attribute("aria-invalid", "true")
    await expect(page.locator("#announcements")).to_contain_text("1,500 can mean 1500 or 1.50")
    await expect(price).to_have_value("1,500")
    await expect(page.locator(".ticket-price")).to_have_text("")

    await price.fill("1500")
    await expect(wrong).to_be_hidden()
    await expect(price).not_to_have_attribute("aria-invalid", "true")
    await expect(page.locator(".ticket-price")).to_have_text("$1,500.00")
    await page.get_by_label("Face value").fill("about 20")
    await page.get_by_label("Title").fill("Fado night")
    await expect(price).to_have_value("1500.00")
    await expect(page.locator("#faceValue-wrong")).to_contain_text("Face value must be an amount in USD")
    await page.get_by_label("Face value").fill("")
    await page.get_by_role("button", name="List the ticket").click()
    await expect(page.get_by_role("heading", name="Your listing: on sale")).to_be_visible()


async def test_nothing_is_explained_while_an_amount_is_being_typed(visitors: Visitors) -> None:
    alice = await visitors.signed_in("alice")
    await alice.go("/tickets/new")
    async with alice.page.expect_response(lambda response: "typed=19." in response.url):
        await alice.page.get_by_label("Price").press_sequentially("19.")
    await expect(alice.page.locator("#price-wrong")).to_be_hidden()


async def test_a_press_on_the_button_is_not_lost_when_the_explanation_moves_it(visitors: Visitors) -> None:
    alice = await visitors.signed_in("alice")
    await alice.go("/tickets/new")
    page = alice.page
    await page.get_by_label("Title").fill("Fado night")
    await page.get_by_label("Price").fill("1,500")
    await page.get_by_role("button", name="List the ticket").hover()
    async with page.expect_response(lambda response: "typed=1%2C500" in response.url):
        await page.mouse.down()
    await page.evaluate("fetch('/amount?field=price&typed=1&currency=usd').then((later) => later.json())")
    await expect(page.locator("#price-wrong")).to_have_text("")
    await page.mouse.up()
    await expect(page.get_by_role("alert").get_by_role("link")).to_contain_text("1,500 can mean 1500 or 1.50")


async def test_without_the_server_an_amount_is_sent_as_it_was_typed(visitors: Visitors) -> None:
    alice = await visitors.signed_in("alice")
    alice.may_fail_requests = True
    await alice.go("/tickets/new")
    page = alice.page
    await page.route("**/amount?*", lambda route: route.abort())
    await page.get_by_label("Price").fill("1.234,50")
    await page.get_by_label("Title").fill("Fado night")
    await page.get_by_role("button", name="List the ticket").click()
    await expect(page.get_by_role("heading", name="Your listing: on sale")).to_be_visible()
    await expect(page.get_by_text("$1,234.50").first).to_be_visible()


async def test_each_error_in_a_listing_is_shown(visitors: Visitors) -> None:
    alice = await visitors.signed_in("alice")
    await alice.go("/tickets/new")
    await alice.page.get_by_label("Price").fill("-3")
    await alice.page.get_by_role("button", name="List the ticket").click()
    await expect(alice.page.get_by_role("alert").get_by_role("link")).to_have_text(
        ["Title is required", "Price must be greater than 0"]
    )
    await expect(alice.page.get_by_label("Price")).to_have_value("-3")


async def test_alice_edits_her_ticket(visitors: Visitors) -> None:
    alice = await visitors.signed_in("alice", timezone_id="America/New_York")
    ticket = await alice.list_ticket("Fado night", eventDate="2027-07-01T20:30:00Z", note="Row three")
    await alice.go(f"/tickets/{ticket}")
    await alice.page.get_by_role("link", name="Edit").click()
    await expect(alice.page.get_by_label("When is it?")).to_have_value("2027-07-01T16:30")
    await alice.page.get_by_label("Price").fill("25")
    await alice.page.get_by_role("button", name="Save").click()
    await expect(alice.page.get_by_role("heading", name="Your listing: on sale")).to_be_visible()
    shown = (await alice.client.get(f"/api/tickets/{ticket}")).json()
    assert (shown["price"], shown["eventDate"], shown["note"]) == (25, "2027-07-01T20:30:00Z", "Row three")


async def test_what_alice_typed_is_kept_when_her_session_ends(visitors: Visitors) -> None:
    alice = await visitors.signed_in("alice", timezone_id="Europe/Lisbon")
    bob = await visitors.signed_in("bob")
    assert alice.email is not None
    page = alice.page
    ticket = await alice.list_ticket("Fado night")
    for path in ("/tickets/new", f"/tickets/{ticket}/edit"):
        await alice.go(path)
        await page.get_by_label("Title").fill("Fado night, front row")
        await page.get_by_label("Price").fill("25")
        await page.get_by_label("When is it?").fill("2027-07-01T21:30")
        await page.get_by_label("Anything else").fill("Row three")
        await alice.context.clear_cookies()
        if path.endswith("/edit"):
            # The page fetches itself again, signed out, and must not leave the form.
            async with page.expect_response(f"**{path}"):
                order = await bob.reserve(ticket)
            await bob.client.delete(f"/api/orders/{order}")
        await page.get_by_role("button", name=re.compile("List the ticket|Save")).click()
        await expect(page.get_by_role("heading", name="Sign in again")).to_be_visible()
        await page.get_by_label("E-mail").fill(alice.email)
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Sign in again").click()
        await expect(page.get_by_label("Title")).to_have_value("Fado night, front row")
        await expect(page.get_by_label("Price")).to_have_value("25.00")
        await expect(page.get_by_label("When is it?")).to_have_value("2027-07-01T21:30")
        await expect(page.get_by_label("Anything else")).to_have_value("Row three")
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("alert")).to_contain_text("The ticket changed since you opened this page")
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("heading", name="Your listing: on sale")).to_be_visible()
    shown = (await alice.client.get(f"/api/tickets/{ticket}")).json()
    assert (shown["title"], shown["eventDate"]) == ("Fado night, front row", "2027-07-01T20:30:00Z")


@pytest.mark.parametrize("date", ["2027-10-31T00:30:00Z", "2027-10-31T01:30:00Z", "2027-07-01T20:30:45Z"])
async def test_an_edit_of_the_price_keeps_the_date_exactly(visitors: Visitors, date: str) -> None:
    """The first two dates are both 01:30 in Lisbon, where clocks are set back at two o'clock."""
    alice = await visitors.signed_in("alice", timezone_id="Europe/Lisbon")
    ticket = await alice.list_ticket("Fado night", eventDate=date)
    page = alice.page
    await alice.go(f"/tickets/{ticket}/edit")
    await page.get_by_label("Price").fill("1,500")  # refused once, so that the form is shown again as it was typed
    await page.get_by_role("button", name="Save").click()
    await expect(page.locator("#price-wrong")).to_be_visible()
    await page.get_by_label("Price").fill("25")
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("heading", name="Your listing: on sale")).to_be_visible()
    shown = (await alice.client.get(f"/api/tickets/{ticket}")).json()
    assert (shown["price"], shown["eventDate"]) == (25, date)


async def test_a_date_that_was_edited_is_in_the_sellers_time_zone(visitors: Visitors) -> None:
    alice = await visitors.signed_in("alice", timezone_id="Europe/Lisbon")
    ticket = await alice.list_ticket("Fado night", eventDate="2027-10-31T01:30:00Z")
    await alice.go(f"/tickets/{ticket}/edit")
    await alice.page.get_by_label("When is it?").fill("2027-07-01T21:30")
    await alice.page.get_by_role("button", name="Save").click()
    await expect(alice.page.get_by_role("heading", name="Your listing: on sale")).to_be_visible()
    shown = (await alice.client.get(f"/api/tickets/{ticket}")).json()
    assert shown["eventDate"] == "2027-07-01T20:30:00Z"


async def test_an_edit_of_a_ticket_that_changed_meanwhile_is_refused(visitors: Visitors) -> None:
    alice = await visitors.signed_in("alice", java_script_enabled=False)
    ticket = await alice.list_ticket("Fado night")
    await alice.go(f"/tickets/{ticket}/edit")
    response = await alice.client.put(f"/api/tickets/{ticket}", json={"title": "Fado night", "price": 30})
    assert response.status_code == 200
    await alice.page.get_by_label("Price").fill("25")
    await alice.page.get_by_role("button", name="Save").click()
    await expect(alice.page.get_by_role("alert")).to_contain_text("The ticket changed since you opened this page")
    assert (await alice.client.get(f"/api/tickets/{ticket}")).json()["price"] == 30


async def test_a_ticket_being_bought_cannot_be_edited_and_the_page_says_why(visitors: Visitors) -> None:
    alice, bob = await visitors.all_signed_in("alice", "bob")
    ticket = await alice.list_ticket("Fado night")
    await alice.go(f"/tickets/{ticket}/edit")
    await alice.page.get_by_label("Title").fill("Fado night, front row")
    order = await bob.reserve(ticket)

    await expect(alice.page.get_by_role("heading", name="Someone is buying it right now")).to_be_visible()
    await expect(alice.page.get_by_label("Title")).to_be_disabled()
    await expect(alice.page.get_by_label("Title")).to_have_value("Fado night, front row")
    await expect(alice.page.locator("#locked")).to_contain_text(re.compile(r"within 1[45] minutes"))

    await bob.client.delete(f"/api/orders/{order}")
    await expect(alice.page.get_by_label("Title")).to_be_enabled()
    await alice.page.get_by_role("button", name="Save").click()
    await expect(alice.page.get_by_role("heading", name="Fado night, front row")).to_be_visible()


async def test_saving_a_ticket_that_was_reserved_meanwhile_is_refused_with_the_reason(visitors: Visitors) -> None:
    alice = await visitors.signed_in("alice", java_script_enabled=False)
    bob = await visitors.signed_in("bob")
    ticket = await alice.list_ticket("Fado night")
    await alice.go(f"/tickets/{ticket}/edit")
    await bob.go(f"/tickets/{ticket}")
    await bob.buy(ticket)
    await expect(bob.page.get_by_text("Held for you").first).to_be_visible()
    carol = await visitors.signed_out()
    await carol.go(f"/tickets/{ticket}")
    await expect(carol.page.get_by_role("heading", name="Being bought")).to_be_visible()

    await alice.page.get_by_label("Price").fill("99")
    await alice.page.get_by_role("button", name="Save").click()
    await expect(alice.page.get_by_role("alert")).to_contain_text("Cannot edit a reserved ticket")
    await expect(alice.page.get_by_label("Price")).to_be_disabled()


async def test_only_the_seller_can_edit_a_ticket(visitors: Visitors) -> None:
    alice, bob = await visitors.all_signed_in("alice", "bob")
    ticket = await alice.list_ticket("Fado night")
    await bob.go(f"/tickets/{ticket}/edit")
    assert await bob.heading() == "This is somebody else’s"

"""Buying tickets with a browser: every way to succeed and to fail."""

import asyncio
import re

import pytest
from playwright.async_api import Page, expect

from admitone.payments.resources import PaymentSettings
from tests.browser.visitors import Visitor, Visitors, failing_provider

# A browser must be used in the event loop in which it was started.
pytestmark = pytest.mark.asyncio(loop_scope="session")

WORKS = "A card that works"
DECLINED = "A card that is declined"
NEEDS_CONFIRMATION = "A card that asks back"


async def pay(buyer: Visitor, card: str) -> None:
    await buyer.page.get_by_role("button", name=card).click()


async def payments_of(buyer: Visitor) -> list[dict[str, object]]:
    order = buyer.path.rpartition("/")[2]
    found: list[dict[str, object]] = (await buyer.client.get(f"/api/payments?orderId={order}")).json()["payments"]
    return found


async def is_yours(page: Page) -> None:
    # Without scripts, the page reloads itself every few seconds.
    await expect(page.get_by_role("heading", name="It is yours")).to_be_visible()


async def test_g17_bob_buys_a_ticket_and_carol_sees_it_being_bought_and_sold(visitors: Visitors) -> None:
    alice, bob = await visitors.all_signed_in("alice", "bob")
    carol = await visitors.signed_out()
    ticket = await alice.list_ticket("Fado night")
    await carol.go(f"/tickets/{ticket}")
    await bob.buy(ticket)
    await expect(carol.page.get_by_role("heading", name="Being bought")).to_be_visible()
    await expect(bob.page.locator(".total")).to_contain_text("$19.50 USD")
    await pay(bob, WORKS)
    await is_yours(bob.page)
    await expect(carol.page.get_by_role("heading", name="Sold")).to_be_visible()
    assert await carol.shifts() == []
    assert await bob.shifts() == []

    await bob.go("/orders")
    await expect(bob.page.get_by_role("listitem")).to_contain_text(["Yours"])
    await bob.go(f"/tickets/{ticket}")
    await expect(bob.page.get_by_role("heading", name="It is yours")).to_be_visible()
    await alice.go("/sell")
    await expect(alice.page.get_by_role("listitem")).to_contain_text(["Sold"])


async def test_a_declined_card_is_explained_and_another_one_works(visitors: Visitors) -> None:
    alice, bob = await visitors.all_signed_in("alice", "bob")
    await bob.buy(await alice.list_ticket("Fado night"))
    await pay(bob, DECLINED)
    problem = bob.page.get_by_role("alert")
    await expect(problem).to_contain_text("Your card was declined.")
    await expect(problem).to_contain_text("Nothing was charged")
    await expect(problem).to_be_focused()
    await bob.page.reload()
    await expect(problem).to_contain_text("Your card was declined.")
    await pay(bob, WORKS)
    await is_yours(bob.page)


async def test_the_last_declined_card_ends_the_order(visitors: Visitors) -> None:
    alice, bob = await visitors.all_signed_in("alice", "bob")
    await bob.buy(await alice.list_ticket("Fado night"))
    for _ in range(visitors.market.settings.read(PaymentSettings).payment_attempts):
        await bob.page.get_by_role("button", name=DECLINED).click()
        await bob.page.wait_for_load_state()
    await expect(bob.page.get_by_role("heading", name="The payment did not go through")).to_be_visible()
    await expect(bob.page.get_by_text("Nothing was charged")).to_be_visible()


async def test_bob_confirms_with_his_bank_and_gets_the_ticket(visitors: Visitors) -> None:
    alice, bob = await visitors.all_signed_in("alice", "bob")
    await bob.buy(await alice.list_ticket("Fado night"))
    await pay(bob, NEEDS_CONFIRMATION)
    await expect(bob.page.get_by_role("heading", name="Your bank wants to know it is you")).to_be_visible()
    await bob.page.get_by_role("link", name="Confirm the payment").click()
    await bob.page.get_by_role("button", name="Approve").click()
    await bob.page.wait_for_url("**/orders/*")
    await is_yours(bob.page)


async def test_bob_refuses_at_his_bank_and_the_ticket_stays_held(visitors: Visitors) -> None:
    alice, bob = await visitors.all_signed_in("alice", "bob")
    await bob.buy(await alice.list_ticket("Fado night"))
    await pay(bob, NEEDS_CONFIRMATION)
    await bob.page.get_by_role("link", name="Confirm the payment").click()
    await bob.page.get_by_role("button", name="Refuse").click()
    await bob.page.wait_for_url("**/orders/*")
    await expect(bob.page.get_by_role("button", name=WORKS)).to_be_visible()
    await pay(bob, WORKS)
    await is_yours(bob.page)


async def test_the_hold_expires_while_bob_watches_and_he_reserves_again(short_hold_visitors: Visitors) -> None:
    alice, bob = await short_hold_visitors.all_signed_in("alice", "bob")
    await bob.buy(await alice.list_ticket("Fado night"))
    await expect(bob.page.locator("[data-time-left]")).to_have_text(re.compile(r"^0:0[1-6]$"))
    await expect(bob.page.get_by_role("heading", name="Time ran out")).to_be_visible()
    await expect(bob.page.get_by_text("Nothing was charged")).to_be_visible()
    first = bob.page.url
    await bob.page.get_by_role("button", name="Try to reserve again for $19.50").click()
    await expect(bob.page.locator("[data-time-left]")).to_be_visible()
    assert bob.page.url != first


async def test_bob_cancels_and_the_ticket_is_available_again(visitors: Visitors) -> None:
    alice, bob = await visitors.all_signed_in("alice", "bob")
    ticket = await alice.list_ticket("Fado night")
    await bob.buy(ticket)
    await bob.page.get_by_role("button", name="Cancel, I do not want it").click()
    await expect(bob.page.get_by_role("heading", name="You cancelled")).to_be_visible()
    await expect(bob.page.get_by_text("Nothing was charged")).to_be_visible()
    await expect(bob.page.get_by_role("button", name="Try to reserve again")).to_be_visible()
    await bob.go("/orders")
    await expect(bob.page.get_by_role("listitem")).to_contain_text(["You cancelled"])


async def test_of_two_simultaneous_buyers_the_loser_sees_that_someone_was_faster(visitors: Visitors) -> None:
    alice, bob, carol = await visitors.all_signed_in("alice", "bob", "carol")
    ticket = await alice.list_ticket("Fado night")
    await alice.list_ticket("Fado night, second row")
    for buyer in (bob, carol):
        await buyer.go(f"/tickets/{ticket}")
        await expect(buyer.page.get_by_role("button", name="Buy for")).to_be_enabled()
    # Two people click without waiting for each other.
    clicks = [buyer.page.locator("form[action$='/buy'] button").dispatch_event("click") for buyer in (bob, carol)]
    await asyncio.gather(*clicks)
    outcome = re.compile(r"/orders/|/buy$")
    await asyncio.gather(*(buyer.page.wait_for_url(outcome) for buyer in (bob, carol)))
    winners = [buyer for buyer in (bob, carol) if "/orders/" in buyer.page.url]
    losers = [buyer for buyer in (bob, carol) if buyer not in winners]
    assert (len(winners), len(losers)) == (1, 1)
    assert await losers[0].heading() == "Someone was faster"
    await expect(losers[0].page.get_by_role("link", name="Fado night, second row")).to_be_visible()


async def test_a_price_that_changed_before_the_click_reserves_nothing(visitors: Visitors) -> None:
    alice = await visitors.signed_in("alice")
    bob = await visitors.signed_in("bob", java_script_enabled=False)
    ticket = await alice.list_ticket("Fado night", "20")
    await bob.go(f"/tickets/{ticket}")
    await alice.client.put(f"/api/tickets/{ticket}", json={"title": "Fado night", "price": 25})
    await bob.page.get_by_role("button", name="Buy for $20.00").click()
    await expect(bob.page.get_by_role("heading", name="The price changed since you looked")).to_be_visible()
    await expect(bob.page.get_by_text("It was $20.00, now it is $25.00")).to_be_visible()
    assert await bob.orders() == []
    await bob.page.get_by_role("button", name="Buy for $25.00").click()
    await expect(bob.page.locator(".total")).to_contain_text("$25.00")


async def test_a_double_click_on_buy_makes_one_order_and_on_pay_one_payment(visitors: Visitors) -> None:
    alice = await visitors.signed_in("alice")
    for scripts in (True, False):
        bob = await visitors.signed_in("bob", java_script_enabled=scripts)
        ticket = await alice.list_ticket("Fado night")
        await bob.go(f"/tickets/{ticket}")
        await bob.page.get_by_role("button", name="Buy for").dblclick()
        await bob.page.wait_for_url("**/orders/*")
        assert len(await bob.orders()) == 1
        await bob.page.get_by_role("button", name=WORKS).dblclick()
        await is_yours(bob.page)
        assert len(await payments_of(bob)) == 1


async def test_the_same_form_posted_five_times_at_once_makes_one_order(visitors: Visitors) -> None:
    alice, bob = await visitors.all_signed_in("alice", "bob")
    ticket = await alice.list_ticket("Fado night")
    await bob.go(f"/tickets/{ticket}")
    key = await bob.page.locator("input[name=key]").input_value()
    send = {"key": key, "price": "19.50"}
    responses = await asyncio.gather(*(bob.client.post(f"/tickets/{ticket}/buy", data=send) for _ in range(5)))
    assert {response.status_code for response in responses} == {303}
    assert len({response.headers["location"] for response in responses}) == 1
    assert len(await bob.orders()) == 1


async def test_when_the_payment_provider_is_down_the_page_says_so_and_recovers(visitors: Visitors) -> None:
    alice, bob = await visitors.all_signed_in("alice", "bob")
    await bob.buy(await alice.list_ticket("Fado night"))
    async with failing_provider(visitors.market):
        await pay(bob, WORKS)
        waiting = bob.page.get_by_role("heading", name="Confirming your payment")
        unreachable = bob.page.get_by_role("heading", name="The payment could not be sent")
        await expect(waiting.or_(unreachable)).to_be_visible(timeout=20_000)
        must_pay_again = await unreachable.is_visible()
    if must_pay_again:
        await pay(bob, WORKS)
    await expect(bob.page.get_by_role("heading", name="It is yours")).to_be_visible(timeout=40_000)
    assert len([each for each in await payments_of(bob) if each["status"] == "captured"]) == 1


async def test_a_page_that_is_the_response_to_a_form_updates_without_posting_it_again(visitors: Visitors) -> None:
    alice = await visitors.signed_in("alice")
    bob = await visitors.signed_in("bob")
    ticket = await alice.list_ticket("Fado night", "20")
    bob.may_fail_requests = True
    await bob.page.route("**/live?*", lambda route: route.abort(), times=1)
    await bob.go(f"/tickets/{ticket}")
    await alice.client.put(f"/api/tickets/{ticket}", json={"title": "Fado night", "price": 25})
    await bob.page.get_by_role("button", name="Buy for $20.00").click()
    await expect(bob.page.get_by_role("heading", name="The price changed since you looked")).to_be_visible()
    assert bob.path.endswith("/buy")
    carol = await visitors.signed_in("carol")
    await carol.reserve(ticket)
    await expect(bob.page.get_by_role("heading", name="Being bought")).to_be_visible()
    assert await bob.orders() == []


async def test_the_countdown_is_right_if_the_computers_clock_is_ten_minutes_wrong(visitors: Visitors) -> None:
    alice = await visitors.signed_in("alice")
    for minutes in (10, -10):
        bob = await visitors.signed_in("bob")
        await bob.context.add_init_script(
            f"""
            const TrueDate = Date;
            Date = class extends TrueDate {{
              constructor(...given) {{ given.length ? super(...given) : super(TrueDate.now() + {minutes} * 60000); }}
              static now() {{ return TrueDate.now() + {minutes} * 60000; }}
            }};
            """
        )
        await bob.buy(await alice.list_ticket("Fado night"))
        await expect(bob.page.locator("[data-time-left]")).to_have_text(re.compile(r"^14:[0-5]\d$"))


async def test_the_time_left_is_announced_at_five_two_and_one_minutes_and_not_in_between(visitors: Visitors) -> None:
    alice, bob = await visitors.all_signed_in("alice", "bob")
    order = await bob.reserve(await alice.list_ticket("Fado night"))
    await bob.page.clock.install()
    await bob.go(f"/orders/{order}")
    announcements = bob.page.locator("#announcements")
    await bob.page.clock.run_for("09:00")
    await expect(announcements).to_have_text("")
    for wait, text in (("01:01", "5 minutes"), ("03:00", "2 minutes"), ("01:00", "1 minute")):
        await bob.page.clock.run_for(wait)
        await expect(announcements).to_have_text(f"{text} left to pay")


async def test_reloading_the_page_does_not_restart_the_countdown(visitors: Visitors) -> None:
    alice, bob = await visitors.all_signed_in("alice", "bob")
    await bob.buy(await alice.list_ticket("Fado night"))
    await expect(bob.page.locator("[data-time-left]")).to_have_text(re.compile(r"^14:[0-5]\d$"))
    before = await bob.page.locator("[data-time-left]").text_content() or ""
    await bob.page.reload()
    after = await bob.page.locator("[data-time-left]").text_content() or ""
    assert after <= before


async def test_a_whole_purchase_by_keyboard_alone(visitors: Visitors) -> None:
    alice, bob = await visitors.all_signed_in("alice", "bob")
    await alice.list_ticket("Keyboard concert")
    await bob.go("/")
    page = bob.page
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await page.keyboard.press("Enter")
    await _tab_to(page, "#q")
    await page.keyboard.type("Keyboard")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/?q=Keyboard")
    await _tab_to(page, ".ticket-title a")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/tickets/*")
    await _tab_to(page, "form[action$='/buy'] button")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/orders/*")
    await _tab_to(page, "button[name=token]")
    await page.keyboard.press("Enter")
    await is_yours(page)


async def _tab_to(page: Page, selector: str) -> None:
    """Press Tab until the element with this selector has the focus."""
    for _ in range(40):
        await page.keyboard.press("Tab")
        if await page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"Tab does not reach {selector}")


async def test_a_whole_purchase_with_javascript_off(visitors: Visitors) -> None:
    alice, bob = await visitors.all_signed_in("alice", "bob", java_script_enabled=False)
    await alice.go("/tickets/new")
    await alice.page.get_by_label("Title").fill("Paper concert")
    await alice.page.get_by_label("Price").fill("12.50")
    await alice.page.get_by_role("button", name="List the ticket").click()
    await alice.page.wait_for_url(re.compile(r"/tickets/[0-9a-f-]{36}$"))

    await bob.go("/")
    await bob.page.get_by_label("Search tickets").fill("Paper concert")
    await bob.page.get_by_role("button", name="Search").click()
    await bob.page.get_by_role("link", name="Paper concert").first.click()
    await bob.page.get_by_role("button", name="Buy for $12.50").click()
    await expect(bob.page.locator("[data-time-left]")).to_have_text("15:00")
    await pay(bob, WORKS)
    await is_yours(bob.page)
    await bob.page.get_by_role("link", name="My orders").first.click()
    await expect(bob.page.get_by_role("listitem")).to_contain_text(["Yours"])


async def test_only_the_buyer_can_see_an_order(visitors: Visitors) -> None:
    alice, bob, carol = await visitors.all_signed_in("alice", "bob", "carol")
    order = await bob.reserve(await alice.list_ticket("Fado night"))
    await carol.go(f"/orders/{order}")
    assert await carol.heading() == "This is somebody else’s"

"""Signing up, in and out, and changing the account, with a browser."""

import re

import pytest
from playwright.async_api import expect

from admitone.kernel import ids
from tests.browser.visitors import PASSWORD, Visitors

# A browser must be used in the event loop in which it was started.
pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_alice_signs_up_signs_out_and_signs_in(visitors: Visitors) -> None:
    alice = await visitors.signed_out()
    email = f"alice-{ids.new_token(6)}@example.com"
    await alice.go("/")
    await alice.page.get_by_role("link", name="Sign up").click()
    await alice.page.get_by_label("E-mail").fill(email)
    await alice.page.get_by_label("Password").fill(PASSWORD)
    await alice.page.get_by_role("button", name="Sign up").click()
    await expect(alice.page.get_by_role("link", name="My orders")).to_be_visible()
    assert alice.path == "/"

    await alice.page.get_by_role("button", name="Sign out").click()
    await expect(alice.page.get_by_role("heading", name="You are signed out")).to_be_visible()

    await alice.page.get_by_role("link", name="Sign in", exact=True).click()
    await alice.page.get_by_label("E-mail").fill(email)
    await alice.page.get_by_label("Password").fill(PASSWORD)
    await alice.page.get_by_role("button", name="Sign in").click()
    await expect(alice.page.get_by_role("link", name="My orders")).to_be_visible()


async def test_errors_are_shown_at_the_field_and_in_a_focused_summary(visitors: Visitors) -> None:
    alice = await visitors.signed_out()
    await alice.go("/auth/signup")
    await alice.page.get_by_label("E-mail").fill("alice@")
    await alice.page.get_by_label("Password").fill("short")
    await alice.page.get_by_role("button", name="Sign up").click()
    summary = alice.page.get_by_role("alert")
    await expect(summary).to_be_focused()
    await expect(summary.get_by_role("link")).to_have_text(
        ["Email must be valid", re.compile("Password must be between 8 and 128")]
    )
    await expect(alice.page.locator("#email-wrong")).to_have_text("Email must be valid")
    await expect(alice.page.get_by_label("E-mail")).to_have_value("alice@")
    await expect(alice.page.get_by_label("Password")).to_have_value("")
    await expect(alice.page).to_have_title(re.compile("^Error: "))
    await summary.get_by_role("link", name="Email must be valid").click()
    await expect(alice.page.get_by_label("E-mail")).to_be_focused()


async def test_an_email_in_use_and_wrong_credentials_are_reported(visitors: Visitors) -> None:
    alice = await visitors.signed_in("alice")
    stranger = await visitors.signed_out()
    await stranger.go("/auth/signup")
    await stranger.page.get_by_label("E-mail").fill(alice.email or "")
    await stranger.page.get_by_label("Password").fill(PASSWORD)
    await stranger.page.get_by_role("button", name="Sign up").click()
    await expect(stranger.page.locator("#email-wrong")).to_have_text("Email in use")

    await stranger.go("/auth/signin")
    await stranger.page.get_by_label("E-mail").fill(alice.email or "")
    await stranger.page.get_by_label("Password").fill("a wrong password")
    await stranger.page.get_by_role("button", name="Sign in").click()
    await expect(stranger.page.get_by_role("alert")).to_contain_text("Invalid credentials")


async def test_after_too_many_tries_the_page_says_when_to_try_again(visitors: Visitors) -> None:
    alice = await visitors.signed_in("alice")
    stranger = await visitors.signed_out()
    for _ in range(30):
        await stranger.go("/auth/signin")
        await stranger.page.get_by_label("E-mail").fill(alice.email or "")
        await stranger.page.get_by_label("Password").fill("a wrong password")
        await stranger.page.get_by_role("button", name="Sign in").click()
        alert = await stranger.page.get_by_role("alert").text_content() or ""
        if "Too many tries" in alert:
            break
    assert re.search(r"Try again in \d+ (second|minute)", alert)


async def test_after_signing_in_the_user_returns_to_the_page_they_wanted(visitors: Visitors) -> None:
    alice = await visitors.signed_in("alice")
    await alice.context.clear_cookies()
    await alice.go("/tickets/new")
    assert alice.path == "/auth/signin"
    await alice.page.get_by_label("E-mail").fill(alice.email or "")
    await alice.page.get_by_label("Password").fill(PASSWORD)
    await alice.page.get_by_role("button", name="Sign in").click()
    await expect(alice.page.get_by_role("heading", name="Sell a ticket")).to_be_visible()
    assert alice.path == "/tickets/new"


async def test_signing_in_never_leads_to_another_site(visitors: Visitors) -> None:
    alice = await visitors.signed_in("alice")
    await alice.context.clear_cookies()
    await alice.go("/auth/signin?next=//evil.example/")
    await alice.page.get_by_label("E-mail").fill(alice.email or "")
    await alice.page.get_by_label("Password").fill(PASSWORD)
    await alice.page.get_by_role("button", name="Sign in").click()
    await expect(alice.page.get_by_role("link", name="My orders")).to_be_visible()
    assert alice.page.url == f"{alice.market.origin}/"


async def test_alice_changes_her_email_and_her_password(visitors: Visitors) -> None:
    alice = await visitors.signed_in("alice")
    await alice.go("/account")
    email = f"alice-{ids.new_token(6)}@example.org"
    section = alice.page.get_by_role("region", name="E-mail")
    await section.get_by_label("E-mail").fill(email)
    await section.get_by_label("Your password").fill("not mine")
    await section.get_by_role("button").click()
    await expect(alice.page.locator("#emailPassword-wrong")).to_have_text("Invalid credentials")

    await section.get_by_label("Your password").fill(PASSWORD)
    await section.get_by_role("button").click()
    await expect(alice.page.get_by_text("Your e-mail address is changed.")).to_be_visible()
    await expect(section.get_by_label("E-mail")).to_have_value(email)

    section = alice.page.get_by_role("region", name="Password", exact=True)
    await section.get_by_label("Present password").fill(PASSWORD)
    await section.get_by_label("New password").fill("another good password")
    await section.get_by_role("button").click()
    await expect(alice.page.get_by_text("Your password is changed.")).to_be_visible()


async def test_signing_out_everywhere_ends_the_other_device_too(visitors: Visitors) -> None:
    alice = await visitors.signed_in("alice")
    phone = await visitors.signed_out()
    response = await phone.client.post("/api/users/signin", json={"email": alice.email, "password": PASSWORD})
    await phone.context.add_cookies(
        [{"name": "session", "value": response.cookies["session"], "url": phone.market.origin}]
    )
    await phone.go("/orders")
    assert await phone.heading() == "My orders"

    await alice.go("/account")
    await alice.page.get_by_role("button", name="Sign out everywhere").click()
    await expect(alice.page.get_by_role("heading", name="You are signed out")).to_be_visible()

    async def is_signed_out() -> None:
        await phone.go("/orders")
        assert phone.path == "/auth/signin"

    await expect(phone.page).to_have_url(re.compile("/orders"))
    await is_signed_out()


async def test_alice_signs_in_with_an_email_whose_domain_has_an_umlaut(visitors: Visitors) -> None:
    alice = await visitors.signed_out()
    email = f"alice-{ids.new_token(6)}@müller-karten.example"
    response = await alice.client.post("/api/users/signup", json={"email": email, "password": PASSWORD})
    assert response.status_code == 201
    await alice.go("/auth/signin?next=/account")
    await alice.page.get_by_label("E-mail").fill(email)
    await alice.page.get_by_label("Password").fill(PASSWORD)
    await alice.page.get_by_role("button", name="Sign in").click()
    await expect(alice.page.get_by_role("heading", name="Account")).to_be_visible()

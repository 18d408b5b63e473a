"""The pages without a browser: headers, redirects, forms and errors."""

import gzip
import re
from decimal import Decimal
from html import unescape

import httpx
import pytest

from admitone.auth.service import SERVICE as AUTH
from admitone.kernel import ids
from admitone.kernel.runner import App
from admitone.orders.service import SERVICE as ORDERS
from admitone.registry import AUTHORITY, SERVICES
from admitone.tickets.service import SERVICE as TICKETS
from admitone.web import assets
from admitone.web.formatting import money
from admitone.web.service import SERVICE as WEB
from tests.engines import Databases
from tests.support import PASSWORD, StartNats, eventually, running_app, settings_for, sign_up, signed_in
from tests.web.amounts import AMOUNTS, NOT_AMOUNTS, UNCLEAR_AMOUNTS

SOME_ID = "01980a7e-5a4c-7c31-9f0e-3b1d2c4f5a66"
SIGNED_IN_PAGES = ["/tickets/new", "/sell", "/orders", "/account", f"/orders/{SOME_ID}", f"/tickets/{SOME_ID}/edit"]


async def list_ticket(seller: httpx.AsyncClient, **fields: str) -> str:
    form = {"title": "Fado night", "price": "19.50", "key": ids.new_token(8), **fields}
    response = await seller.post("/tickets/new", data=form)
    assert response.status_code == 303, response.text
    return response.headers["location"]


async def reserve(buyer: httpx.AsyncClient, ticket: str) -> str:
    async def reserved() -> str | None:
        response = await buyer.post(f"{ticket}/buy", data={"key": ids.new_token(8), "price": "19.50"})
        return response.headers["location"] if response.status_code == 303 else None

    order: str = await eventually(reserved, "the ticket can be reserved")
    return order


@pytest.mark.parametrize("path", ["/", "/auth/signup", "/auth/signin", "/nothing/here", "/tickets/x"])
async def test_the_content_security_policy_allows_only_what_pages_need(app: App, path: str) -> None:
    response = await app.client().get(path)
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "stripe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<script(?![^>]+src=)|<style|\sstyle=|\son\w+=", response.text)


async def test_a_page_is_compressed_if_the_browser_accepts_it(app: App) -> None:
    client = app.client()
    plain = await client.get("/", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert "cookie" in plain.headers["vary"]
    compressed = await client.get("/", headers={"accept-encoding": "gzip"})
    assert compressed.headers["content-encoding"] == "gzip"
    assert compressed.text == plain.text


@pytest.mark.parametrize("path", ["/", assets.url("style.css")])
@pytest.mark.parametrize(
    ("accepted", "is_compressed"),
    [
        ("gzip;q=0", False),
        ("br, GZIP; Q=0.000", False),
        ("*;q=0", False),
        ("gzip;q=0, *", False),
        ("xgzip", False),
        ("", False),
        ("*", True),
        ("*;q=0, gzip;q=0.001", True),
        ("br;q=1.0, GZIP;q=0.5", True),
    ],
)
async def test_gzip_is_not_sent_to_a_client_that_excludes_it(
    app: App, path: str, accepted: str, is_compressed: bool
) -> None:
    response = await app.client().get(path, headers={"accept-encoding": accepted})
    assert ("content-encoding" in response.headers) == is_compressed


async def test_browsers_do_not_store_pages_of_signed_in_users(app: App) -> None:
    assert (await signed_in(app, "alice").get("/sell")).headers["cache-control"] == "no-store"
    assert (await app.client().get("/")).headers["cache-control"] == "private, no-cache"


async def test_static_files_are_cached_for_a_year_under_their_fingerprint(app: App) -> None:
    client = app.client()
    page = await client.get("/")
    url = assets.url("style.css")
    assert url in page.text
    response = await client.get(url, headers={"accept-encoding": "gzip"})
    assert response.status_code == 200
    assert response.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert response.headers["content-encoding"] == "gzip"
    assert response.headers["content-type"] == "text/css; charset=utf-8"
    plain = await client.get(url, headers={"accept-encoding": "identity"})
    assert plain.content == response.content
    assert (await client.get("/static/000000000000/style.css")).status_code == 404
    assert (await client.get(f"/static/{assets.FINGERPRINT}/..%2fpages.py")).status_code == 404


async def test_html_and_style_of_the_first_page_fit_in_50_kilobytes(app: App) -> None:
    alice = signed_in(app, "alice")
    for number in range(50):
        await list_ticket(alice, title=f"Concert number {number}", venue="Grand Hall, Paris", seat=str(number))
    html = (await app.client().get("/", headers={"accept-encoding": "identity"})).content
    style = (await app.client().get(assets.url("style.css"))).content
    assert html.count(b"<article") == 50
    assert len(gzip.compress(html, 5)) + len(gzip.compress(style, 9)) < 50_000


@pytest.mark.parametrize("path", SIGNED_IN_PAGES)
async def test_a_signed_out_user_is_redirected_to_sign_in_and_back(app: App, path: str) -> None:
    response = await app.client().get(path)
    assert response.status_code == 303
    assert httpx.URL(response.headers["location"]).params["next"] == path


async def test_a_form_posted_signed_out_leads_back_to_its_page_after_signing_in(app: App) -> None:
    ticket = f"/tickets/{SOME_ID}"
    response = await app.client().post(f"{ticket}/buy", data={"key": "k", "price": "1"})
    assert httpx.URL(response.headers["location"]).params["next"] == ticket


@pytest.mark.parametrize("url", ["//evil.example", "https://evil.example", "/\\evil.example", "/\tx", "x", "/" * 600])
async def test_signing_in_never_redirects_to_another_site(app: App, url: str) -> None:
    response = await app.client().post(
        "/auth/signup",
        data={"email": f"{ids.new_token(4)}@example.com", "password": PASSWORD, "next": url, "key": ids.new_token(8)},
    )
    assert response.headers["location"] == "/"


async def test_a_form_from_another_site_is_refused(app: App) -> None:
    alice = signed_in(app, "alice")
    form = {"title": "Fado night", "price": "19.50", "key": "k"}
    for headers in (
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
    ):
        response = await alice.post("/tickets/new", data=form, headers=headers)
        assert response.status_code == 403
    assert (await alice.get("/api/tickets/mine")).json()["tickets"] == []


async def test_the_same_form_posted_twice_lists_one_ticket(app: App) -> None:
    alice = signed_in(app, "alice")
    first = await list_ticket(alice, key="the-same")
    assert await list_ticket(alice, key="the-same") == first
    assert len((await alice.get("/api/tickets/mine")).json()["tickets"]) == 1


async def test_the_face_value_is_shown_on_the_ticket_and_removed_by_an_edit(app: App) -> None:
    async with signed_in(app, "alice") as alice:
        ticket = await list_ticket(alice, faceValue="58")
        assert re.search(r"<dt>Face value</dt><dd[^>]*>\$58\.00</dd>", (await app.client().get(ticket)).text)
        form = (await alice.get(f"{ticket}/edit")).text
        assert re.search(r'<input id="faceValue"[^>]* value="58\.00"', form)
        etag = re.search(r'name="etag" value="([^"]*)"', form)
        assert etag is not None
        edit = {"title": "Fado night", "price": "19.50", "etag": unescape(etag[1])}
        wrong = await alice.post(f"{ticket}/edit", data={**edit, "faceValue": "a lot"})
        assert wrong.status_code == 400
        assert "Face value must be an amount in USD" in wrong.text
        assert (await alice.post(f"{ticket}/edit", data={**edit, "faceValue": " "})).status_code == 303
        assert "Face value" not in (await app.client().get(ticket)).text


async def test_an_edit_without_scripts_keeps_the_seconds_of_the_date(app: App) -> None:
    async with signed_in(app, "alice") as alice:
        dates = ("2027-10-31T01:30:45Z", "2027-10-31T01:30:00Z", "2027-10-31T00:00:00Z")
        for date in dates:
            listed = await alice.post("/api/tickets", json={"title": "Fado night", "price": 20, "eventDate": date})
            path = f"/tickets/{listed.json()['id']}"
            shown = re.search(r'<input id="eventDate"[^>]* value="([^"]*)"', (await alice.get(f"{path}/edit")).text)
            assert shown is not None
            edit = {"title": "Fado night", "price": "25", "etag": '"0"', "eventDate": shown[1], "eventInstant": ""}
            assert (await alice.post(f"{path}/edit", data=edit)).status_code == 303
            edited = (await alice.get(f"/api{path}")).json()
            assert (edited["price"], edited["eventDate"]) == (25, date)


async def test_each_user_sees_only_their_own_session(app: App) -> None:
    alice, bob = app.client(), app.client()
    await alice.post("/auth/signup", data={"email": "alice@example.com", "password": PASSWORD, "key": "a"})
    await bob.post("/auth/signup", data={"email": "bob@example.com", "password": PASSWORD, "key": "b"})
    nobody = app.client()
    assert (await nobody.get("/orders")).status_code == 303
    assert "alice@example.com" in (await alice.get("/account")).text
    assert "bob@example.com" in (await bob.get("/account")).text
    assert "Sign in" in (await nobody.get("/")).text


async def test_a_new_ticket_is_on_the_very_next_page_of_listings(app: App) -> None:
    alice, carol = signed_in(app, "alice"), app.client()
    for number in range(5):
        assert f"Night {number}" not in (await carol.get("/")).text
        await list_ticket(alice, title=f"Night {number}")
        assert f"Night {number}" in (await carol.get("/")).text


async def test_typed_text_is_escaped(app: App) -> None:
    alice = signed_in(app, "alice")
    markup = '<script>alert("1")</script>'
    ticket = await list_ticket(alice, title=markup, venue=markup, note=markup)
    for path in ("/", ticket, f"{ticket}/edit", "/sell", f"/?q={markup}"):
        text = (await alice.get(path)).text
        assert markup not in text
    assert "&lt;script&gt;" in (await alice.get(ticket)).text


async def test_an_unknown_sort_or_cursor_shows_the_first_page(app: App) -> None:
    alice = signed_in(app, "alice")
    await list_ticket(alice)
    for query in ("sort=random", "cursor=x", "cursor=%00", "sort=price&cursor=9999"):
        response = await app.client().get(f"/?{query}")
        assert response.status_code == 200
        assert "Fado night" in response.text


async def test_an_unknown_path_is_an_error_page_and_below_api_a_json_error(app: App) -> None:
    page = await app.client().get("/nothing")
    assert page.status_code == 404
    assert "There is no such page" in page.text
    api = await app.client().get("/api/nothing")
    assert api.json() == {"errors": [{"message": "Not Found"}]}
    assert (await app.client().get("/tickets/x/buy")).status_code == 404


async def test_a_session_that_a_service_refuses_leads_to_sign_in_without_a_redirect_loop(app: App) -> None:
    alice = app.client()
    await sign_up(alice, "alice@example.com")
    # The revocation has reached orders and not yet the web service.
    user = await app.running["web"].sessions.user(alice.cookies["session"])
    assert user is not None
    app.running["orders"].sessions.revoke(user.session_id, user.expires_at)
    response = await alice.get("/orders")
    assert response.status_code == 303
    sign_in_page = await alice.get(response.headers["location"])
    assert sign_in_page.status_code == 200


async def test_the_order_page_works_while_payments_is_unreachable(app: App) -> None:
    alice, bob = signed_in(app, "alice"), signed_in(app, "bob")
    order = await reserve(bob, await list_ticket(alice))
    page = await bob.get(order)
    assert page.status_code == 200
    assert "Held for you" in page.text
    sent = await bob.post(f"{order}/pay", data={"key": "the-key", "token": "pm_card_visa"})
    assert sent.status_code == 503
    assert "The payment could not be sent" in sent.text
    # Posted again, it is the same payment.
    assert 'name="key" value="the-key"' in sent.text


async def test_stripes_origins_are_allowed_only_on_the_order_page(databases: Databases, start_nats: StartNats) -> None:
    async with running_app(
        databases, start_nats, AUTH, TICKETS, ORDERS, WEB, stripe_publishable_key="pk_test_1"
    ) as app:
        alice, bob = signed_in(app, "alice"), signed_in(app, "bob")
        ticket = await list_ticket(alice)
        order = await bob.get(await reserve(bob, ticket))
        assert "script-src 'self' https://js.stripe.com;" in order.headers["content-security-policy"]
        assert 'data-stripe-key="pk_test_1"' in order.text
        assert 'data-amount="1950"' in order.text
        assert "pm_card_visa" not in order.text
        for path in ("/", ticket, "/orders"):
            assert "stripe" not in (await bob.get(path)).headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/tickets/mine", "/tickets/x%3Fy", "/tickets/new%00", "/tickets/é"])
async def test_a_malformed_id_is_not_found(app: App, path: str) -> None:
    assert (await signed_in(app, "alice").get(path)).status_code == 404


@pytest.mark.parametrize(
    "cookie", ["session=é", 'session="a\\012b"', "session=", "session=a b; x", "=; session=%0d%0a"]
)
async def test_a_cookie_that_is_not_a_token_is_ignored(app: App, cookie: str) -> None:
    client = app.client()
    headers = {"cookie": cookie.encode("latin-1")}
    assert (await client.get("/", headers=headers)).status_code == 200  # type: ignore[arg-type]
    form = {"email": "alice@example.com", "password": PASSWORD}
    response = await client.post("/auth/signin", data=form, headers=headers)  # type: ignore[arg-type]
    assert "Invalid credentials" in response.text


async def test_control_characters_and_huge_numbers_in_fields_do_no_harm(app: App) -> None:
    alice = signed_in(app, "alice")
    ticket = await list_ticket(alice, key="é\r\nx: y")
    response = await alice.post(f"{ticket}/edit", data={"title": "Fado", "price": "20", "etag": "é\r\nx: y"})
    assert "The ticket changed since you opened this page" in response.text
    bob = signed_in(app, "bob")
    order = await reserve(bob, ticket)
    assert (await bob.get(f"{order}?was=1E%2B999999999")).status_code == 200
    assert (await alice.get("/?q=%00")).status_code == 400


async def test_the_cached_listings_page_contains_nothing_about_a_user(app: App) -> None:
    alice, bob = signed_in(app, "alice"), signed_in(app, "bob")
    await list_ticket(alice)

    async def shown_to(client: httpx.AsyncClient) -> str:
        return re.sub(r'data-live-since="[^"]*"', "", (await client.get("/")).text)

    assert "Sign out" in await shown_to(alice)
    assert "alice" not in await shown_to(alice)
    assert await shown_to(bob) == await shown_to(alice)
    assert "Sign out" not in await shown_to(app.client())


async def test_a_service_that_runs_alone_documents_the_whole_api(databases: Databases, start_nats: StartNats) -> None:
    settings = await settings_for(databases, start_nats, WEB)
    async with App([WEB], settings, AUTHORITY, documented=SERVICES) as app, app.client() as visitor:
        document = (await visitor.get("/api/openapi.json")).json()
        page = await visitor.get("/api")
    assert {"/api/tickets", "/api/orders", "/api/payments", "/api/users/signin"} <= set(document["paths"])
    assert page.status_code == 200


@pytest.mark.parametrize("typed", ["1,500", "12,500", "1.500"])
@pytest.mark.parametrize(("field", "name"), [("price", "Price"), ("faceValue", "Face value")])
async def test_an_amount_that_can_mean_two_is_refused_beside_its_field(
    app: App, typed: str, field: str, name: str
) -> None:
    alice = signed_in(app, "alice")
    ticket = await list_ticket(alice)
    form = {"title": "Fado night", "price": "20", "key": "k", "etag": '"0"', field: typed}
    for path in ("/tickets/new", f"{ticket}/edit"):
        response = await alice.post(path, data=form)
        assert response.status_code == 400
        beside = re.search(rf'<span class="wrong" id="{field}-wrong">([^<]*)</span>', response.text)
        assert beside is not None
        assert beside[1].startswith(f"{name} is not clear: {typed} can mean ")
        assert f'value="{typed}"' in response.text
    assert [each["price"] for each in (await alice.get("/api/tickets/mine")).json()["tickets"]] == [19.5]


@pytest.mark.parametrize(
    ("typed", "reading"),
    [
        *((typed, {"amount": f"{Decimal(amount):.2f}"}) for typed, amount in AMOUNTS.items()),
        *((typed, {"wrong": "Price is not clear: "}) for typed in UNCLEAR_AMOUNTS),
        *((typed, {"wrong": "Price must be an amount in USD"}) for typed in NOT_AMOUNTS),
        ("-3", {}),  # an amount, which the API refuses
    ],
)
async def test_the_script_of_the_form_gets_the_server_s_reading_of_an_amount(
    app: App, typed: str, reading: dict[str, str]
) -> None:
    query = {"field": "price", "typed": typed, "currency": "usd"}
    response = await app.client().get("/amount", params=query)
    assert response.status_code == 200
    shown = response.json()
    if "amount" in shown:
        assert shown.pop("text") == money(Decimal(shown["amount"]), "usd")
    assert shown.keys() == reading.keys()
    assert all(shown[name].startswith(expected) for name, expected in reading.items())
    assert (await app.client().get("/amount", params={**query, "field": "title"})).status_code == 404


async def test_an_amount_may_be_typed_with_its_currency_and_thousands(app: App) -> None:
    alice = signed_in(app, "alice")
    ticket = await list_ticket(alice, price="1.234,50", faceValue="$1 500")
    shown = (await alice.get(f"/api{ticket}")).json()
    assert (shown["price"], shown["faceValue"]) == (1234.5, 1500)


def hidden_fields(html: str) -> dict[str, str]:
    found = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', html)
    return {name: unescape(value) for name, value in found}


FILLED_IN = {"title": 'Fado "night"', "price": "1.234,50", "venue": "Clube de Fado", "eventDate": "2027-07-01T20:30"}


def assert_is_filled_in(html: str) -> None:
    for name, value in FILLED_IN.items():
        assert re.search(rf'<input id="{name}" [^>]*value="{re.escape(value.replace(chr(34), "&#34;"))}"', html), name


async def test_a_form_that_was_filled_in_when_the_session_ended_is_shown_again_after_signing_in(app: App) -> None:
    alice = app.client()
    await sign_up(alice, "alice@example.com")
    listed = await list_ticket(alice)
    for path, more in (("/tickets/new", {}), (f"{listed}/edit", {"etag": '"0"'})):
        alice.cookies.clear()
        page = await alice.post(path, data={**FILLED_IN, **more, "key": "k", "password": "not to be kept"})
        assert page.status_code == 401
        assert "Your session has ended" in page.text
        assert "not to be kept" not in page.text
        kept = hidden_fields(page.text)
        assert kept == {**FILLED_IN, **more}
        credentials = {"email": "alice@example.com", "password": "not the password"}
        page = await alice.post(f"{path}/signin", data={**kept, **credentials})
        assert page.status_code == 400
        assert "Invalid credentials" in page.text
        assert hidden_fields(page.text) == kept
        page = await alice.post(f"{path}/signin", data={**kept, **credentials, "password": PASSWORD})
        assert page.status_code == 200
        assert "Sign out" in page.text
        assert_is_filled_in(page.text)
        assert f'action="{path}"' in page.text
        saved = await alice.post(path, data={**FILLED_IN, **hidden_fields(page.text)})
        assert saved.status_code == 303
        ticket = (await alice.get(f"/api{saved.headers['location']}")).json()
        assert (ticket["title"], ticket["price"]) == (FILLED_IN["title"], 1234.5)


async def test_a_new_address_is_kept_if_the_session_ended_while_it_was_typed(app: App) -> None:
    alice = app.client()
    await sign_up(alice, "alice@example.com")
    alice.cookies.clear()
    page = await alice.post("/account/email", data={"email": "alice@new.example", "emailPassword": "not to be kept"})
    assert page.status_code == 401
    assert "not to be kept" not in page.text
    assert hidden_fields(page.text) == {"newEmail": "alice@new.example"}
    credentials = {"email": "alice@example.com", "password": PASSWORD}
    page = await alice.post("/account/email/signin", data={**hidden_fields(page.text), **credentials})
    assert page.status_code == 200
    assert re.search(r'<input id="email" [^>]*value="alice@new.example"', page.text)
    changed = await alice.post("/account/email", data={"email": "alice@new.example", "emailPassword": PASSWORD})
    assert changed.status_code == 303


async def test_a_form_is_kept_if_only_the_service_knows_that_the_session_ended(app: App) -> None:
    alice = app.client()
    await sign_up(alice, "alice@example.com")
    user = await app.running["web"].sessions.user(alice.cookies["session"])
    assert user is not None
    app.running["tickets"].sessions.revoke(user.session_id, user.expires_at)
    page = await alice.post("/tickets/new", data={**FILLED_IN, "key": "k"})
    assert page.status_code == 401
    assert hidden_fields(page.text) == FILLED_IN
    assert "Sign out" not in page.text


async def test_an_edit_is_not_restored_for_another_user(app: App) -> None:
    ticket = await list_ticket(signed_in(app, "alice"))
    bob = app.client()
    await sign_up(bob, "bob@example.com")
    bob.cookies.clear()
    credentials = {"email": "bob@example.com", "password": PASSWORD}
    response = await bob.post(f"{ticket}/edit/signin", data={**FILLED_IN, **credentials})
    assert (response.status_code, response.headers["location"]) == (303, f"{ticket}/edit")
    assert (await bob.get(f"{ticket}/edit")).status_code == 403

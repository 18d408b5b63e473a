"""Users in front of a browser, and what is checked about every page they see."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Response

from admitone.kernel import ids
from admitone.kernel.settings import Settings
from admitone.payments.resources import PaymentSettings

PASSWORD = "correct horse battery staple"

# Every page records its layout shifts, and reports violations of its content security policy.
_OBSERVE = """
window.shifts = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) {
    window.shifts.push({value: entry.value, moved: entry.sources.map((each) => each.node?.outerHTML?.slice(0, 200))});
  }
}).observe({type: "layout-shift", buffered: true});
document.addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective}`));
"""


@dataclass(frozen=True)
class Marketplace:
    """A running marketplace: its origin and its settings."""

    origin: str
    settings: Settings

    @property
    def sandbox_url(self) -> str:
        return self.settings.read(PaymentSettings).stripe_url.rstrip("/")


@dataclass
class Visitor:
    """A user in front of a browser; `client` is the same user without one."""

    market: Marketplace
    context: BrowserContext
    page: Page
    client: httpx.AsyncClient
    email: str | None = None
    may_fail_requests: bool = False
    """Whether the test lets requests of this browser fail, which its console reports."""
    problems: list[str] = field(default_factory=list)

    async def go(self, path: str) -> None:
        await self.page.goto(self.market.origin + path)

    @property
    def path(self) -> str:
        return urlsplit(self.page.url).path

    async def heading(self) -> str:
        return (await self.page.locator("h1").first.text_content() or "").strip()

    async def shifts(self) -> list[Any]:
        """Return the layout shifts since the page was shown."""
        # A smaller shift is text laid out again within its pixel, which is not visible.
        found: list[Any] = await self.page.evaluate("window.shifts.filter((each) => each.value >= 0.001)")
        return found

    async def list_ticket(self, title: str, price: str = "19.50", **more: str) -> str:
        """List a ticket; return its id."""
        response = await self.client.post("/api/tickets", json={"title": title, "price": float(price), **more})
        assert response.status_code == 201, response.text
        ticket_id: str = response.json()["id"]
        return ticket_id

    async def reserve(self, ticket_id: str) -> str:
        """Reserve a ticket without the browser, as soon as orders knows it; return the order's id."""
        tries = 200
        for _ in range(tries):
            response = await self.client.post("/api/orders", json={"ticketId": ticket_id})
            if response.status_code == 201:
                order_id: str = response.json()["id"]
                return order_id
            assert response.status_code == 404, response.text
        raise AssertionError(f"orders does not know the ticket after {tries} tries")

    async def buy(self, ticket_id: str) -> None:
        """Click through to the order's page."""
        await self.go(f"/tickets/{ticket_id}")
        await self.page.get_by_role("button", name="Buy for").click()
        await self.page.wait_for_url("**/orders/*")

    async def orders(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.client.get("/api/orders")).json()["orders"]
        return found


class Visitors:
    """All visitors of one test."""

    def __init__(self, chromium: Browser, market: Marketplace) -> None:
        self.market = market
        self._chromium = chromium
        self._stack = AsyncExitStack()
        self._all: list[Visitor] = []

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def problems(self) -> list[str]:
        return [problem for visitor in self._all for problem in visitor.problems]

    async def signed_out(self, **browser: Any) -> Visitor:
        """Return a visitor who is not signed in; `browser` are Playwright's options of a browser context."""
        context = await self._chromium.new_context(**{"reduced_motion": "reduce", **browser})
        self._stack.push_async_callback(context.close)
        client = await self._stack.enter_async_context(httpx.AsyncClient(base_url=self.market.origin, timeout=20))
        await context.add_init_script(_OBSERVE)
        page = await context.new_page()
        page.set_default_timeout(30_000)
        visitor = Visitor(self.market, context, page, client)
        self._all.append(visitor)
        self._record_problems(visitor)
        return visitor

    async def signed_in(self, name: str, **browser: Any) -> Visitor:
        """Return a visitor who is signed in, with an account of this test alone."""
        visitor = await self.signed_out(**browser)
        visitor.email = f"{name}-{ids.new_token(6)}@example.com"
        response = await visitor.client.post("/api/users/signup", json={"email": visitor.email, "password": PASSWORD})
        assert response.status_code == 201, response.text
        cookie = {"name": "session", "value": response.cookies["session"], "url": self.market.origin}
        await visitor.context.add_cookies([cookie])  # type: ignore[list-item]
        return visitor

    async def all_signed_in(self, *names: str, **browser: Any) -> Sequence[Visitor]:
        return [await self.signed_in(name, **browser) for name in names]

    def _record_problems(self, visitor: Visitor) -> None:
        refused: set[str] = set()

        def note_response(response: Response) -> None:
            # A form shown again with errors has an error status, which the console reports as a failure.
            if response.request.is_navigation_request() and response.status >= 400:
                refused.add(response.url)

        def note_message(message: ConsoleMessage) -> None:
            is_failed_request = message.text.startswith("Failed to load resource")
            is_expected = visitor.may_fail_requests or message.location["url"] in refused
            if message.type == "error" and not (is_failed_request and is_expected):
                visitor.problems.append(f"{visitor.path}: {message.text}")

        visitor.page.on("response", note_response)
        visitor.page.on("console", note_message)
        visitor.page.on("pageerror", lambda error: visitor.problems.append(f"{visitor.path}: {error}"))


@contextlib.asynccontextmanager
async def failing_provider(market: Marketplace) -> AsyncIterator[None]:
    """Let every request to the payment provider fail inside the block."""
    async with httpx.AsyncClient(base_url=market.sandbox_url) as client:
        faults = {"requests": [{"count": 0, "answer": "internal_error"}]}
        response = await client.post("/sandbox/faults", json=faults)
        assert response.is_success, response.text
        try:
            yield
        finally:
            await client.delete("/sandbox/faults")

"""A whole marketplace as `admitone up` runs it, a real browser, and people who use both."""

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright, expect

from admitone.kernel.settings import Settings
from admitone.local.installation import running_settings
from admitone.local.server import free_port
from tests.browser.people import Marketplace, Visitors
from tests.engines import short_folder, wait_until

CHROMIUM_FLAGS = [
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# Long enough for a machine that does other things as well; what has to be quick is measured where it matters.
expect.set_options(timeout=20_000)


@contextmanager
def running_marketplace(**environment: str) -> Iterator[Marketplace]:
    """Everything on this machine, started with the one command people start it with."""
    with short_folder() as folder, (folder / "up.log").open("wb") as log:
        port = free_port()
        process = subprocess.Popen(
            [sys.executable, "-m", "admitone", "up", "--port", str(port), "--data", str(folder / "data")],
            env={**os.environ, **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until(lambda: process.poll() is not None or _answers(port), "the marketplace serves", seconds=60)
            assert process.poll() is None, (folder / "up.log").read_text()
            yield Marketplace(f"http://127.0.0.1:{port}", _settings(folder / "data"))
        finally:
            process.terminate()
            assert process.wait(30) == 0, (folder / "up.log").read_text()


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def _settings(data: Path) -> Settings:
    settings = running_settings(data)
    assert settings is not None
    return settings


@pytest.fixture(scope="session")
def marketplace() -> Iterator[Marketplace]:
    """A marketplace with the usual fifteen minutes to pay; tests share it and make their own people and tickets."""
    with running_marketplace() as running:
        yield running


@pytest.fixture(scope="session")
def hasty_marketplace() -> Iterator[Marketplace]:
    """A marketplace where a ticket is held for six seconds."""
    with running_marketplace(ADMITONE_ORDER_WINDOW_SECONDS="6") as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    """Debian's Chromium where there is one, else the one `playwright install chromium` fetched."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM_FLAGS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def visitors(chromium: Browser, marketplace: Marketplace) -> AsyncIterator[Visitors]:
    """People in front of a browser each. At the end none of their consoles may hold an error."""
    async with Visitors(chromium, marketplace) as everyone:
        yield everyone
        assert everyone.problems() == []


@pytest_asyncio.fixture(loop_scope="session")
async def hasty_visitors(chromium: Browser, hasty_marketplace: Marketplace) -> AsyncIterator[Visitors]:
    """The same where a ticket is held for six seconds."""
    async with Visitors(chromium, hasty_marketplace) as everyone:
        yield everyone
        assert everyone.problems() == []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report what the tests measured, beside whether they passed."""
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")

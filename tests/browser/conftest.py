"""A whole marketplace, run by `admitone up`, a real browser, and visitors who use both."""

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
from tests.browser.visitors import Marketplace, Visitors
from tests.engines import short_folder, wait_until

CHROMIUM_FLAGS = [
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# Long enough for a busy machine; tests that require speed measure it themselves.
expect.set_options(timeout=20_000)


@contextmanager
def running_marketplace(**environment: str) -> Iterator[Marketplace]:
    """Start a marketplace with the command people use, and stop it at the end."""
    with short_folder() as folder, (folder / "up.log").open("wb") as log:
        port = free_port()
        process = subprocess.Popen(
            [sys.executable, "-m", "admitone", "up", "--port", str(port), "--data", str(folder / "data")],
            env={**os.environ, **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until(lambda: process.poll() is not None or _is_ready(port), "the marketplace is ready", seconds=60)
            assert process.poll() is None, (folder / "up.log").read_text()
            yield Marketplace(f"http://127.0.0.1:{port}", _settings(folder / "data"))
        finally:
            process.terminate()
            assert process.wait(30) == 0, (folder / "up.log").read_text()


def _is_ready(port: int) -> bool:
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
    """A marketplace with the default hold of 15 minutes; tests share it and create their own users and tickets."""
    with running_marketplace() as running:
        yield running


@pytest.fixture(scope="session")
def short_hold_marketplace() -> Iterator[Marketplace]:
    """A marketplace with a hold of six seconds."""
    with running_marketplace(ADMITONE_ORDER_WINDOW_SECONDS="6") as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    """The system's Chromium if it has one, else the one of `playwright install chromium`."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM_FLAGS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def visitors(chromium: Browser, marketplace: Marketplace) -> AsyncIterator[Visitors]:
    """Visitors with a browser each; at the end, no console may have reported an error."""
    async with Visitors(chromium, marketplace) as all_visitors:
        yield all_visitors
        assert all_visitors.problems() == []


@pytest_asyncio.fixture(loop_scope="session")
async def short_hold_visitors(chromium: Browser, short_hold_marketplace: Marketplace) -> AsyncIterator[Visitors]:
    """The same with a hold of six seconds."""
    async with Visitors(chromium, short_hold_marketplace) as all_visitors:
        yield all_visitors
        assert all_visitors.problems() == []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report what the tests measured."""
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")

"""`python docs/pictures/take.py` takes the screenshots of the README from a marketplace filled by the demo."""

import argparse
import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
from playwright.async_api import Browser, Page, async_playwright

from admitone.kernel import ids
from admitone.local.server import free_port

PICTURES: Final = Path(__file__).parent
DEVICES: Final = {"desktop": (1280, 800), "phone": (390, 844)}
THEMES: Final = ("light", "dark")
_ADMITONE: Final = (sys.executable, "-m", "admitone")


@contextmanager
def demo_marketplace() -> Iterator[str]:
    """Start a marketplace with demo data and stop it at the end; yield its origin."""
    data, port = Path(tempfile.mkdtemp(prefix="admitone-pictures-")), free_port()
    origin = f"http://127.0.0.1:{port}"
    command = [*_ADMITONE, "up", "--port", str(port), "--data", str(data)]
    running = subprocess.Popen(command, env=dict(os.environ), stdout=subprocess.DEVNULL)  # noqa: S603
    try:
        _wait_until_ready(origin, running)
        subprocess.run([*_ADMITONE, "demo", "--url", origin], check=True)  # noqa: S603
        yield origin
    finally:
        running.send_signal(signal.SIGINT)
        running.wait(timeout=30)
        shutil.rmtree(data, ignore_errors=True)


def _wait_until_ready(origin: str, running: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if running.poll() is not None:
            raise RuntimeError("the marketplace exited while starting")
        try:
            if httpx.get(f"{origin}/health/ready").status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise TimeoutError("the marketplace is not ready after 60 s")


async def take_screenshots(browser: Browser, origin: str, device: str, theme: str) -> None:
    """Take a screenshot of each page of a purchase, on one device in one theme."""
    width, height = DEVICES[device]
    context = await browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if theme == "dark" else "light",
        device_scale_factor=1.5,
        has_touch=device == "phone",
        is_mobile=device == "phone",
        reduced_motion="reduce",
    )
    page = await context.new_page()

    async def screenshot(name: str) -> None:
        await page.screenshot(path=PICTURES / f"{name}-{device}-{theme}.png")

    await page.goto(origin)
    await screenshot("list")
    await _sign_up(page, origin)
    await page.goto(f"{origin}/?q=Swan")
    await page.locator(".ticket[data-state=available] .ticket-title a").first.click()
    await page.get_by_role("button", name="Buy for").wait_for()
    await screenshot("ticket")
    await page.get_by_role("button", name="Buy for").click()
    await page.wait_for_url(lambda url: urlsplit(url).path.startswith("/orders/"))
    await screenshot("pay")
    await page.get_by_role("button", name="A card that works").click()
    await page.get_by_role("heading", name="It is yours").wait_for()
    await screenshot("yours")
    await context.close()


async def _sign_up(page: Page, origin: str) -> None:
    await page.goto(f"{origin}/auth/signup")
    await page.get_by_label("E-mail").fill(f"reader-{ids.new_token(4)}@example.com")
    await page.get_by_label("Password").fill("one ticket one holder")
    await page.get_by_role("button", name="Sign up").click()
    await page.get_by_role("link", name="My orders").wait_for()


async def take_all_screenshots(origin: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"))
        for device in DEVICES:
            for theme in THEMES:
                await take_screenshots(browser, origin, device, theme)
        await browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="use a running marketplace with demo data instead of starting one")
    arguments = parser.parse_args()
    if arguments.url:
        asyncio.run(take_all_screenshots(arguments.url))
        return
    with demo_marketplace() as origin:
        asyncio.run(take_all_screenshots(origin))


if __name__ == "__main__":
    main()

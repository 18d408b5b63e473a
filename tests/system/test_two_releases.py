"""Two releases of the services run side by side, as during a deployment, while people trade: nothing is lost."""

import asyncio
import os
import shutil
import signal
from pathlib import Path
from typing import Final

import httpx
import pytest

from admitone.local.program import Program
from admitone.local.server import read_pid
from proof.endings import ENDINGS, Cast, every_ending
from proof.marketplace import Marketplace, is_ready, running_marketplace, settled
from proof.waiting import until
from tests.whole import ROOT

SHARED: Final = ("tickets", "expiration", "payments")
ROUNDS: Final = 10
# What the older release lacks: a value that orders publishes when a buyer cancels, and a subscription of each service.
NEWER: Final = {
    "events.py": 'Literal["cancelled_by_buyer", ',
    "tickets/service.py": (
        "        events.OrderCompleted: BatchHandler(handlers.load_ended, handlers.order_completed, handlers.save),\n"
    ),
    "expiration/service.py": (
        "        events.OrderAwaitingPayment: BatchHandler(handlers.load, handlers.order_settled, handlers.save),\n"
    ),
    "payments/service.py": (
        "        events.PaymentRejected: BatchHandler(handlers.load, handlers.payment_rejected, handlers.save),\n"
    ),
}


def older_source(folder: Path) -> Path:
    """Make a copy of the source as it was before the newer release."""
    source = folder / "older" / "src"
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
    for name, newer in NEWER.items():
        file = source / "admitone" / name
        text = file.read_text()
        assert text.count(newer) == 1, f"{name} has no {newer!r} any more"
        file.write_text(text.replace(newer, "Literal[" if newer.startswith("Literal") else ""))
    return source


def newer_pid(marketplace: Marketplace, service: str) -> int:
    pid = read_pid(marketplace.folder / "processes" / f"{service}.pid")
    assert pid is not None, f"{service} does not run"
    return pid


def older_release(marketplace: Marketplace, folder: Path) -> Program:
    """Return a process of the older release, with the databases and the bus of the newer one."""
    environment = {"PYTHONPATH": str(older_source(folder)), "PYTHONDONTWRITEBYTECODE": "1"}
    for service in SHARED:
        variables = Path(f"/proc/{newer_pid(marketplace, service)}/environ").read_bytes().decode().split("\0")
        environment |= dict(each.split("=", 1) for each in variables if each.startswith(("ADMITONE_", "STRIPE_")))
    environment.pop("ADMITONE_METRICS_PORT", None)
    program = Program(folder / "older" / "process", "older", ["admitone", "serve", *SHARED])
    program.environment = environment
    return program


async def consumes_alone(marketplace: Marketplace) -> None:
    """Return when the older release has consumed something while the newer one of expiration is suspended."""
    consumed = "SELECT count(*) FROM inbox"
    pid = newer_pid(marketplace, "expiration")
    os.kill(pid, signal.SIGSTOP)
    try:
        before = await marketplace.value("expiration", consumed)

        async def is_more() -> bool:
            return bool(await marketplace.value("expiration", consumed) > before)

        await until(is_more, "the older release consumes", 30)
    finally:
        os.kill(pid, signal.SIGCONT)


async def restart_newer(marketplace: Marketplace) -> None:
    """Let the newer release start while the older one runs."""
    for service in SHARED:
        killed = newer_pid(marketplace, service)
        os.kill(killed, signal.SIGKILL)

        async def is_restarted(service: str = service, killed: int = killed) -> bool:
            return read_pid(marketplace.folder / "processes" / f"{service}.pid") not in {None, killed}

        await until(is_restarted, f"{service} is restarted", 30)
    async with httpx.AsyncClient(base_url=marketplace.url) as client:
        await until(lambda: is_ready(client), "every service is ready", 30)


@pytest.mark.proof
@pytest.mark.full
@pytest.mark.timeout(400)
async def test_two_releases_side_by_side_lose_nothing(folder: Path) -> None:
    """A process that lacks a subscription of each service, and a value of an event, shares their consumers."""
    settings = {"ADMITONE_ORDER_WINDOW_SECONDS": "8"}
    async with (
        running_marketplace("--processes", environment=settings) as marketplace,
        marketplace.people(3) as people,
    ):
        older = older_release(marketplace, folder)
        await older.start_async()
        try:
            await restart_newer(marketplace)
            trading = asyncio.create_task(every_ending(Cast(*people), ROUNDS))
            await consumes_alone(marketplace)
            endings = await trading
        finally:
            older.stop()
        await settled(marketplace.value)
        findings = await marketplace.check(people[0].history.records)
        assert [f"{each.id} {each.samples()}" for each in findings if not each.holds] == []
        assert people[0].history.problems == []
        assert endings == dict.fromkeys(ENDINGS, ROUNDS)
        for sql in (
            "SELECT count(*) FROM orders WHERE cancel_reason = 'cancelled_by_buyer'",
            "SELECT count(*) FROM orders WHERE status = 'complete'",
        ):
            assert await marketplace.value("orders", sql) >= ROUNDS
        for service in SHARED:
            assert await marketplace.value(service, "SELECT count(*) FROM dead_letter") == 0

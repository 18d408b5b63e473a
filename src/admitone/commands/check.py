"""`admitone check`: check the invariants of a running marketplace."""

import asyncio
from pathlib import Path

import click
import httpx
import msgspec

from admitone import registry
from admitone.commands.connection import database_url, effective_settings
from admitone.commands.errors import CannotRun, report_errors
from admitone.invariants import GRACE_SECONDS, ClientRecord, Finding, Sources
from admitone.invariants import check as checked
from admitone.invariants.provider import STRIPE_URL
from admitone.kernel.addresses import reason_of
from admitone.payments.resources import PaymentSettings


@click.command
@click.option(
    "--grace",
    "grace_seconds",
    type=click.FloatRange(0, 3600),
    default=GRACE_SECONDS,
    show_default=True,
    help="How many seconds an event may take to arrive before a difference between databases counts.",
)
@click.option(
    "--history",
    "history_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A client history: requests and their outcomes, one JSON object per line.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per invariant.")
@report_errors
def check(*, grace_seconds: float, history_file: Path | None, as_json: bool) -> None:
    """Check in the databases and at the payment provider that nothing is sold twice, charged for nothing, or lost.

    Prints each invariant with the number of violations and of checked items. It only reads, and can run beside live
    traffic. Exit code 1 if an invariant is broken.

    \b
    Examples:
      admitone check
      admitone check --grace 60 --json
    """
    settings = effective_settings()
    for service in registry.SERVICES:
        if service.has_database:
            database_url(settings, service.name)
    history = _read_history(history_file) if history_file else []
    try:
        findings = asyncio.run(
            checked(Sources.of(settings, registry.SERVICES), history=history, grace_seconds=grace_seconds)
        )
    except httpx.HTTPError as error:
        address = settings.read(PaymentSettings).stripe_url or STRIPE_URL
        raise CannotRun(
            f"The payment provider at {address} does not list the payments: {reason_of(error)}. Check that it is"
            " reachable and that STRIPE_SECRET_KEY is valid."
        ) from error
    for finding in findings:
        click.echo(_as_json(finding) if as_json else _as_text(finding))
    broken = [finding.id for finding in findings if not finding.holds]
    if not as_json:
        click.echo(f"\nBroken: {', '.join(broken)}" if broken else "\nEvery invariant holds.")
    if broken:
        raise click.exceptions.Exit(1)


def _as_text(finding: Finding) -> str:
    state = "ok" if finding.holds else "BROKEN"
    count = f"{len(finding.violations):,} of {finding.checked:,}"
    line = f"{finding.id:<4} {state:<7} {count:>18}   {finding.description}"
    return "\n".join([line, *(f"       {sample}" for sample in finding.samples())])


def _as_json(finding: Finding) -> str:
    return msgspec.json.encode(
        {
            "id": finding.id,
            "description": finding.description,
            "holds": finding.holds,
            "violations": len(finding.violations),
            "lookedAt": finding.checked,
            "samples": finding.samples(),
        }
    ).decode()


def _read_history(file: Path) -> list[ClientRecord]:
    decoder = msgspec.json.Decoder(ClientRecord)
    history = []
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        try:
            history.append(decoder.decode(line))
        except msgspec.MsgspecError as error:
            raise CannotRun(f"{file}, line {number}: {error}") from error
    return history

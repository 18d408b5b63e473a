"""A stampede: a thousand buyers at the same moment for one ticket; one gets it, and all others are refused."""

import json
import statistics
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from admitone.kernel.http.operations import CREATED
from proof.clients import user_id_of
from proof.history import ClientHistory
from proof.load.generator import Measured
from proof.load.speed import Bench, reservations

_REFUSED: Final = 400


async def prove_stampede(bench: Bench) -> None:
    marketplace, report = bench.marketplace, bench.report
    tokens = bench.tokens(bench.options.buyers)
    slowest_ms: list[float] = []
    async with marketplace.people(1) as [seller]:
        for number in range(1, bench.options.rounds + 1):
            ticket = await seller.list_ticket("The hot one")
            assert ticket is not None
            await seller.reserve(ticket)  # refused to its seller, as soon as orders knows the ticket
            requests = reservations([ticket.id] * len(tokens), tokens)
            run = bench.send(requests, connections=len(tokens), keep_bodies=True)
            _record(seller.history, run, ticket.id, tokens)
            slowest_ms.append(run.quantile_ms(0.99))
            winners, refused = run.statuses[CREATED], run.statuses[_REFUSED]
            report.add(f"round {number}", winners=winners, refused=refused, all_within_s=run.seconds)
            assert (winners, refused) == (1, len(tokens) - 1), run.statuses
        findings = await marketplace.check(seller.history.records, 60)
    report.add("99 of 100 responses, median round", within_ms=statistics.median(slowest_ms))
    broken = [f"{each.id}: {each.samples()}" for each in findings if not each.holds]
    report.add("violations", violations=", ".join(broken) or "none")
    assert not broken


def _record(history: ClientHistory, run: Measured, ticket: UUID, tokens: Sequence[str]) -> None:
    """Add a round of the stampede to the client history."""
    made = [json.loads(each) for each in run.bodies if b'"status":"created"' in each]
    winners = {UUID(order["userId"]): UUID(order["id"]) for order in made}
    for user_id in map(user_id_of, tokens):
        status = CREATED if user_id in winners else _REFUSED
        history.record("order", user_id, status, CREATED, ticket=ticket, order=winners.get(user_id))

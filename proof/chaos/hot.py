"""One ticket, a thousand buyers at the same moment, at peace: one of them gets it, and everybody else is told so."""

import asyncio
import json
import statistics
from collections import Counter
from uuid import UUID

import httpx

from admitone import registry
from admitone.invariants import ClientRecord, Sources, check
from admitone.kernel.http.operations import CREATED
from admitone.kernel.ids import new_id
from proof.load import generator as load
from proof.load.world import World, running_world

_REFUSED = 400


def race(rounds: int, buyers: int) -> int:
    """Play the rounds on a marketplace made for them, print what happened, return the exit code."""
    violations: list[str] = []
    history: list[ClientRecord] = []
    slowest: list[float] = []
    statuses: Counter[int] = Counter()
    with running_world("--processes", ADMITONE_ORDER_WINDOW_SECONDS="900") as world:
        people = [(person, world.token_of(person)) for person in (new_id() for _ in range(buyers))]
        seller = new_id()
        for number in range(1, rounds + 1):
            ticket = _listed(world, seller, history)
            measured, told = _raced(world, ticket, people)
            history += told
            winners = measured.statuses[CREATED]
            refused = measured.statuses[_REFUSED]
            statuses += measured.statuses
            slowest.append(measured.quantile_ms(0.99))
            if (winners, refused) != (1, buyers - 1):
                violations.append(f"round {number}: {dict(measured.statuses)}")
            print(
                f"round {number:>2}: {winners} of {buyers:,} got the ticket, {refused:,} were refused,"
                f" all within {measured.seconds:.2f} s",
                flush=True,
            )
        findings = asyncio.run(check(Sources.of(world.settings, registry.SERVICES), history=history, grace_seconds=60))
    violations += [f"{each.id}: {text}" for each in findings for text in each.samples()]
    print(
        f"{rounds} rounds, {sum(statuses.values()):,} answers {dict(statuses)};"
        f" 99 of 100 answers within {statistics.median(slowest):.0f} ms (median round)"
    )
    print(f"Violations: {len(violations)}")
    for each in violations:
        print(f"  {each}")
    return 1 if violations else 0


def _listed(world: World, seller: UUID, history: list[ClientRecord]) -> UUID:
    """Put a ticket on sale and wait until orders has heard of it."""
    headers = {"cookie": f"session={world.token_of(seller)}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{world.port}", headers=headers, trust_env=False) as client:
        answer = client.post("/api/tickets", json={"title": "The hot one", "price": 19.99}).raise_for_status()
        ticket = UUID(answer.json()["id"])
        # Its seller may not buy it, and is told so once orders knows the ticket; until then it waits.
        client.post("/api/orders", json={"ticketId": str(ticket)})
    history.append(ClientRecord(action="list", outcome="answered", person=seller, ticket=ticket))
    return ticket


def _raced(world: World, ticket: UUID, people: list[tuple[UUID, str]]) -> tuple[load.Measured, list[ClientRecord]]:
    body = json.dumps({"ticketId": str(ticket)}).encode()
    asked = [load.request("POST", "/api/orders", token=token, body=body) for _, token in people]
    measured = load.run(world.port, asked, connections=len(people), keep_bodies=True)
    made = [json.loads(each) for each in measured.bodies if b'"status":"created"' in each]
    told = [
        ClientRecord(
            action="order", outcome="answered", person=UUID(order["userId"]), ticket=ticket, order=UUID(order["id"])
        )
        for order in made
    ]
    winners = {each.person for each in told}
    told += [
        ClientRecord(action="order", outcome="refused", person=person, ticket=ticket)
        for person, _ in people
        if person not in winners
    ]
    return measured, told

"""Invariants of events: versions have no gaps, and every event reaches every subscriber."""

from collections import defaultdict
from collections.abc import Mapping
from datetime import timedelta
from typing import Final
from uuid import UUID

from admitone.invariants.findings import Checked, Violation, always, once_settled
from admitone.invariants.snapshot import Snapshot
from admitone.kernel.messaging.event import Undecodable, unwrap
from admitone.kernel.service import Service

# Outboxes keep seven days; events about to be pruned are not checked.
_CHECKED_AGE: Final = timedelta(days=6)

# They keep less if their stream reaches its limit. What was published before the oldest event is not known then.
_OLDEST: Final = """
SELECT (SELECT id FROM outbox ORDER BY position LIMIT 1) AS id,
    (SELECT min(position) FROM outbox) = 1
        OR pg_sequence_last_value(pg_get_serial_sequence('outbox', 'position')::regclass) IS NULL AS is_complete
"""
_UNKNOWN: Final = 2**128  # above every id

_BROKEN_VERSIONS: Final = """
SELECT aggregate
FROM (
    SELECT aggregate, count(*) AS events, count(DISTINCT version) AS versions, min(version) AS lowest,
        max(version) AS highest
    FROM outbox WHERE version IS NOT NULL GROUP BY aggregate
) AS published LEFT JOIN {table} AS kept ON kept.id = published.aggregate
WHERE events <> versions OR versions <> highest - lowest + 1 OR kept.version IS DISTINCT FROM highest
"""
_AGGREGATES: Final = (("auth", "account", "person"), ("tickets", "ticket", "ticket"), ("orders", "orders", "order"))
_AFTER_THE_END: Final = {
    "orders": """
        SELECT DISTINCT ending.aggregate FROM outbox AS ending
        JOIN outbox AS later ON later.aggregate = ending.aggregate AND later.version > ending.version
        WHERE ending.type IN ('OrderCompleted', 'OrderCancelled')
        UNION
        SELECT kept.id FROM outbox AS ending JOIN orders AS kept ON kept.id = ending.aggregate
        WHERE (type = 'OrderCompleted' AND status <> 'complete') OR (type = 'OrderCancelled' AND status <> 'cancelled')
    """,
    "tickets": """
        SELECT DISTINCT ending.aggregate FROM outbox AS ending
        JOIN outbox AS later ON later.aggregate = ending.aggregate AND later.version > ending.version
        WHERE ending.type = 'TicketUpdated' AND ending.data::jsonb ->> 'status' = 'sold'
    """,
}


@always("I11", "versions grow one by one, and what has ended never changes")
async def _versions_have_no_gaps(snapshot: Snapshot) -> Checked:
    violations: list[Violation] = []
    for service, table, kind in _AGGREGATES:
        broken = await snapshot.rows(service, _BROKEN_VERSIONS.format(table=table))
        violations += [Violation(f"{kind} {row['aggregate']}", "lacks the event of a version") for row in broken]
    for service, sql in _AFTER_THE_END.items():
        changed = await snapshot.rows(service, sql)
        violations += [
            Violation(f"{service.removesuffix('s')} {row['aggregate']}", "changed after its end") for row in changed
        ]
    return len(snapshot.tickets) + len(snapshot.orders), violations


@once_settled(
    "I14",
    "every event was published and consumed by every subscriber; only non-events are dead letters",
)
async def _no_event_is_lost(snapshot: Snapshot) -> Checked:
    published: dict[str, dict[UUID, str]] = {}
    known_since: dict[str, int] = {}
    violations: list[Violation] = []
    for service in snapshot.services:
        rows = await snapshot.rows(
            service.name,
            """
            SELECT id, type, stream_sequence IS NULL AS is_waiting
            FROM outbox WHERE recorded_at > instant() - $1::interval
            """,
            _CHECKED_AGE,
        )
        published[service.name] = {row["id"]: row["type"] for row in rows}
        (oldest,) = await snapshot.rows(service.name, _OLDEST)
        since = oldest["id"].int if oldest["id"] else _UNKNOWN
        known_since[service.name] = 0 if oldest["is_complete"] else since
        violations += [
            Violation(f"event {row['id']}", f"({row['type']}) is in the outbox and not on the bus")
            for row in rows
            if row["is_waiting"]
        ]
    for service in snapshot.services:
        violations += await _missed(snapshot, service, published, known_since)
    return sum(map(len, published.values())), violations


async def _missed(
    snapshot: Snapshot,
    service: Service,
    published: Mapping[str, Mapping[UUID, str]],
    known_since: Mapping[str, int],
) -> list[Violation]:
    rows = await snapshot.rows(
        service.name, "SELECT id, received_at > instant() - $1::interval AS is_recent FROM inbox", _CHECKED_AGE
    )
    consumed = {row["id"]: row["is_recent"] for row in rows}
    dead = await snapshot.rows(service.name, "SELECT id, message, given_up_at IS NOT NULL AS given_up FROM dead_letter")
    given_up = {row["id"] for row in dead if row["given_up"]}
    violations = [
        Violation(f"event {row['id']}", f"is a dead letter of {service.name}")
        for row in dead
        if row["given_up"] and _is_event(row["message"])
    ]
    subscribed: dict[str, set[str]] = defaultdict(set)
    for event in service.subscriptions:
        subscribed[event.producer].add(event.__name__)
    every: set[UUID] = set()
    for producer, types in subscribed.items():
        every |= published[producer].keys()
        violations += [
            Violation(f"event {event_id}", f"({event_type}) has not reached {service.name}")
            for event_id, event_type in published[producer].items()
            if event_type in types and event_id not in consumed and str(event_id) not in given_up
        ]
    # An event older than what was read of the outboxes may have been consumed only recently.
    oldest = min((event_id.int for event_id in every), default=0)
    oldest = max([oldest, *(known_since[producer] for producer in subscribed)])
    violations += [
        Violation(f"event {event_id}", f"was consumed by {service.name}, and nobody published it")
        for event_id, is_recent in consumed.items()
        if is_recent and event_id.int > oldest and event_id not in every
    ]
    return violations


def _is_event(message: bytes) -> bool:
    try:
        unwrap(message)
    except Undecodable:
        return False
    return True

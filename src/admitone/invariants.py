"""What is always true of the marketplace, asked of its databases and of the payment provider: the project's proof.

`check` reads each database at one instant of its own. Some invariants hold at every instant; a single reading that
breaks one is proof enough. The others compare databases that agree only once the events under way have arrived: such
a violation counts when it is still there, unchanged, in every reading until the grace is over.

A simulator or a chaos run also hands over what its clients asked and what they were told (`Asked`): then what was
answered must be there, and what was refused must have left no trace.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from typing import Any, Final, Literal
from uuid import UUID

import asyncpg
import httpx
import msgspec

from admitone.kernel import clock
from admitone.kernel.messaging.event import Undecodable, unwrap
from admitone.kernel.service import Service
from admitone.kernel.settings import Settings
from admitone.payments.resources import PaymentSettings

Rows = Sequence[asyncpg.Record]

# An unpaid order is ended by the alarm at its deadline, or by orders itself 10 seconds later.
OVERDUE_SECONDS: Final = 30.0
# Between an authorisation and its capture lies one call to the provider, repeated while the provider is away.
UNSETTLED_SECONDS: Final = 600.0
GRACE_SECONDS: Final = 15.0
_LOOK_AGAIN_SECONDS: Final = 0.5
# Outboxes keep seven days; what is about to be pruned is not asked for.
_REMEMBERED: Final = timedelta(days=6)
_READ_SECONDS_MAX: Final = 120.0
_PAGE: Final = 100

_LIVE: Final = frozenset({"created", "awaiting:payment"})
_PAID_FOR: Final = frozenset({"awaiting:payment", "complete"})


@dataclass(frozen=True)
class Violation:
    """One thing that is not as it must be. The text is the same in every reading, so that readings can be compared."""

    about: str
    what: str

    def __str__(self) -> str:
        return f"{self.about} {self.what}"


@dataclass(frozen=True)
class Finding:
    """What became of one invariant: over how many things it was asked, and which of them break it."""

    id: str
    description: str
    looked_at: int
    violations: frozenset[Violation]

    @property
    def holds(self) -> bool:
        return not self.violations

    def samples(self, most: int = 5) -> list[str]:
        """Return some of the violations, always the same ones."""
        return sorted(map(str, self.violations))[:most]


class Asked(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One thing a client asked for, and what it was told.

    `unknown` means that no answer came (a broken connection, a 5xx): it may have had its effect or not. A request that
    was repeated with its Idempotency-Key is one entry. A payment that still needs something of the buyer is unknown.
    """

    did: Literal["sign up", "list", "edit", "order", "cancel", "pay"]
    outcome: Literal["answered", "refused", "unknown"]
    person: UUID
    ticket: UUID | None = None
    order: UUID | None = None
    title: str | None = None
    version: int | None = None
    price_cents: int | None = None


class Intent(msgspec.Struct, frozen=True):
    """What the provider says about one payment of ours; `taken_cents` is what the buyer is charged after refunds."""

    id: str
    status: str
    amount_cents: int
    taken_cents: int
    currency: str
    order_id: UUID
    payment_id: UUID


Provider = Callable[[UUID], Awaitable[Sequence[Intent]]]
"""Lists the intents that one installation of AdmitOne has at the provider."""


@dataclass(frozen=True)
class Sources:
    """Where the truth is asked for: each service's database, and the provider if it can be asked."""

    database_urls: Mapping[str, str]
    services: Sequence[Service]
    provider: Provider | None = None

    @classmethod
    def of(cls, settings: Settings, services: Sequence[Service]) -> "Sources":
        """Return the sources that the settings lead to. Raises SettingsError for a database that nobody names."""
        urls = {each.name: settings.database_url(each.name) for each in services if each.has_database}
        stripe = settings.read(PaymentSettings)
        provider = provider_at(stripe.stripe_url or STRIPE_URL, stripe.stripe_secret_key)
        return cls(urls, services, provider if stripe.stripe_secret_key else None)


class Reading:
    """Every database at one instant each, and the provider's list as it was just before.

    The provider is read first and what led to it afterwards, so that a charge is never seen without its order.
    """

    def __init__(
        self,
        connections: Mapping[str, "asyncpg.Connection[Any]"],
        services: Sequence[Service],
        history: Sequence[Asked],
        intents: Sequence[Intent] | None,
    ) -> None:
        self._connections = connections
        self.services = [each for each in services if each.has_database]
        self.history = history
        self.intents = intents
        self.tickets: Mapping[UUID, asyncpg.Record] = {}
        self.orders: Mapping[UUID, asyncpg.Record] = {}
        self.payments: Mapping[UUID, asyncpg.Record] = {}

    async def rows(self, service: str, sql: str, *arguments: object) -> Rows:
        rows: Rows = await self._connections[service].fetch(sql, *arguments)
        return rows

    async def broken(self, safety: "Safety") -> list[Violation]:
        """Return what breaks a safety statement."""
        return [Violation(row["about"], row["what"]) for row in await self.rows(safety.service, safety.sql)]

    async def load(self) -> None:
        """Read what several invariants compare."""
        self.payments = {row["id"]: row for row in await self.rows("payments", _PAYMENTS)}
        self.orders = {row["id"]: row for row in await self.rows("orders", _ORDERS)}
        self.tickets = {row["id"]: row for row in await self.rows("tickets", _TICKETS)}

    @cached_property
    def charges(self) -> "list[Charge]":
        """Every charge that was not given back, by our own books and, where it can be asked, by the provider's."""
        ours = [
            Charge(f"payment {row['id']}", row["order_id"], row["amount_cents"], row["currency"], row["user_id"])
            for row in self.payments.values()
            if row["state"] == "captured"
        ]
        theirs = [
            Charge(f"charge {each.id}", each.order_id, each.taken_cents, each.currency)
            for each in self.intents or ()
            if each.taken_cents
        ]
        return ours + theirs


@dataclass(frozen=True)
class Charge:
    """Money that was taken for an order; the provider does not know the buyer."""

    name: str
    order_id: UUID
    amount_cents: int
    currency: str
    buyer: UUID | None = None


_PAYMENTS: Final = "SELECT id, order_id, user_id, amount_cents, currency, state FROM payment"
_ORDERS: Final = """
SELECT id, version, status, user_id, ticket_id, ticket_version, title, price_cents, currency, expires_at, payment_id,
    cancel_reason
FROM orders
"""
_TICKETS: Final = """
SELECT id, version, title, price_cents, currency, user_id AS seller_id, status, order_id FROM ticket
"""

Examined = tuple[int, Iterable[Violation]]
Examine = Callable[[Reading], Awaitable[Examined]]


@dataclass(frozen=True)
class _Invariant:
    id: str
    description: str
    settles: bool
    examine: Examine


INVARIANTS: Final[list[_Invariant]] = []


def _always(id: str, description: str) -> Callable[[Examine], Examine]:  # noqa: A002 – an invariant has an id
    """Declare an invariant that holds at every instant."""
    return _declared(id, description, settles=False)


def _settled(id: str, description: str) -> Callable[[Examine], Examine]:  # noqa: A002
    """Declare an invariant that holds once the events under way have arrived."""
    return _declared(id, description, settles=True)


def _declared(invariant_id: str, description: str, *, settles: bool) -> Callable[[Examine], Examine]:
    def declare(examine: Examine) -> Examine:
        INVARIANTS.append(_Invariant(invariant_id, description, settles, examine))
        return examine

    return declare


async def check(
    sources: Sources, *, history: Sequence[Asked] = (), grace_seconds: float = GRACE_SECONDS
) -> list[Finding]:
    """Return what became of every invariant, in their order.

    Takes one reading when all is well, and up to `grace_seconds` when events are under way or something is broken.
    Safe on a running system: it only reads.
    """
    findings = await _examined(sources, history)
    until = clock.monotonic_seconds() + grace_seconds
    settling = {each.id for each in INVARIANTS if each.settles}
    while any(each.id in settling and not each.holds for each in findings) and clock.monotonic_seconds() < until:
        await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        findings = [
            replace(
                now,
                violations=before.violations & now.violations
                if now.id in settling
                else before.violations | now.violations,
            )
            for before, now in zip(findings, await _examined(sources, history), strict=True)
        ]
    return findings


async def _examined(sources: Sources, history: Sequence[Asked]) -> list[Finding]:
    async with _reading(sources, history) as reading:
        return await _findings(reading)


async def examined(
    connections: Mapping[str, "asyncpg.Connection[Any]"],
    services: Sequence[Service],
    history: Sequence[Asked],
    intents: Sequence[Intent] | None,
) -> list[Finding]:
    """Return what one reading over connections of the caller's finds; a simulation asks so, at rest."""
    reading = Reading(connections, services, history, intents)
    await reading.load()
    return await _findings(reading)


async def check_always(sources: Sources) -> list[Finding]:
    """Return what one reading finds of the invariants that hold at every instant, even while everything breaks."""
    async with _reading(sources, ()) as reading:
        return await _findings(reading, [each for each in INVARIANTS if not each.settles])


async def _findings(reading: Reading, invariants: Sequence[_Invariant] = INVARIANTS) -> list[Finding]:
    findings = []
    for each in invariants:
        looked_at, violations = await each.examine(reading)
        findings.append(Finding(each.id, each.description, looked_at, frozenset(violations)))
    return findings


@asynccontextmanager
async def _reading(sources: Sources, history: Sequence[Asked]) -> AsyncIterator[Reading]:
    intents: Sequence[Intent] | None = None
    async with AsyncExitStack() as stack:
        if sources.provider is not None:
            payments = await stack.enter_async_context(_connected(sources.database_urls["payments"]))
            intents = await sources.provider(await payments.fetchval("SELECT id FROM installation"))
        connections = {}
        for service, url in sources.database_urls.items():
            connection = await stack.enter_async_context(_connected(url))
            await stack.enter_async_context(connection.transaction(isolation="repeatable_read", readonly=True))
            connections[service] = connection
        reading = Reading(connections, sources.services, history, intents)
        await reading.load()
        yield reading


@asynccontextmanager
async def _connected(url: str) -> "AsyncIterator[asyncpg.Connection[Any]]":
    connection = await asyncpg.connect(
        url,
        command_timeout=_READ_SECONDS_MAX,
        # Longer than a request may take: this reads everything.
        server_settings={
            "application_name": "check",
            "statement_timeout": str(int(_READ_SECONDS_MAX * 1000)),
            "idle_in_transaction_session_timeout": "0",
        },
    )
    try:
        yield connection
    finally:
        await connection.close()


# What must not happen for a moment, so small that a simulation asks for it after every statement that could do it.


@dataclass(frozen=True)
class Safety:
    """An invariant of one database, as a statement whose rows are what breaks it: `about` and `what`."""

    id: str
    service: str
    sql: str


_SOLD_ONCE: Final = Safety(
    "I1",
    "orders",
    """
    SELECT 'ticket ' || ticket_id AS about, 'has ' || count(*) || ' orders at once' AS what FROM orders
    WHERE status IN ('created', 'awaiting:payment', 'complete') GROUP BY ticket_id HAVING count(*) > 1
    """,
)
_CHARGED_ONCE: Final = Safety(
    "I3",
    "payments",
    """
    SELECT 'order ' || order_id AS about, 'was charged ' || count(*) || ' times' AS what FROM payment
    WHERE state = 'captured' GROUP BY order_id HAVING count(*) > 1
    """,
)
SAFETY: Final = (_SOLD_ONCE, _CHARGED_ONCE)


_UNSENT: Final = "SELECT 'event ' || id FROM outbox WHERE stream_sequence IS NULL LIMIT 1"
# What may be under way, by service: nothing changes any more once none of these names anything (and, for what was sent,
# once the bus is drained).
UNDER_WAY: Final = (
    ("tickets", _UNSENT),
    ("tickets", "SELECT 'lock of ticket ' || id FROM ticket WHERE status = 'reserved' LIMIT 1"),
    ("orders", _UNSENT),
    ("orders", "SELECT 'order ' || id FROM orders WHERE status IN ('created', 'awaiting:payment') LIMIT 1"),
    ("expiration", _UNSENT),
    ("expiration", "SELECT 'alarm of order ' || order_id FROM deadline LIMIT 1"),
    ("payments", _UNSENT),
    ("payments", "SELECT 'webhook ' || number FROM webhook WHERE processed_at IS NULL LIMIT 1"),
    (
        "payments",
        """
        SELECT 'payment ' || id FROM payment
        WHERE wanted IS NOT NULL OR state IN ('created', 'requires_action', 'authorized') LIMIT 1
        """,
    ),
)


ORDER_OF_CHARGE: Final = "SELECT status, price_cents, currency, user_id FROM orders WHERE id = $1"


def why_unfounded(charge: Charge, order: asyncpg.Record | None) -> str | None:
    """Return why a charge must not have been made, given the order it names; None when it is as it must be.

    What the provider takes must be founded at the very instant it is taken. What payments' own books say of it is
    compared once everything has arrived.
    """
    if order is None:
        return f"was taken for order {charge.order_id}, which does not exist"
    if order["status"] not in _PAID_FOR:
        return f"was taken for order {charge.order_id}, which is {order['status']}"
    if (charge.amount_cents, charge.currency) != (order["price_cents"], order["currency"]):
        return f"is not the price of order {charge.order_id}"
    if charge.buyer not in {None, order["user_id"]}:
        return f"was taken from somebody else than the buyer of order {charge.order_id}"
    return None


# The invariants.


@_always("I1", "at most one live or complete order per ticket")
async def _one_order_per_ticket(reading: Reading) -> Examined:
    return len(reading.orders), await reading.broken(_SOLD_ONCE)


@_settled("I2", "every charge belongs to an order that is paid for, with its amount, currency and buyer")
async def _every_charge_has_its_order(reading: Reading) -> Examined:
    violations = [
        Violation(charge.name, why)
        for charge in reading.charges
        if (why := why_unfounded(charge, reading.orders.get(charge.order_id))) is not None
    ]
    return len(reading.charges), violations


@_always("I3", "at most one charge per order")
async def _one_charge_per_order(reading: Reading) -> Examined:
    taken = Counter(each.order_id for each in reading.intents or () if each.taken_cents)
    violations = [
        Violation(f"order {order_id}", f"was charged {count} times") for order_id, count in taken.items() if count > 1
    ]
    charged = {charge.order_id for charge in reading.charges}
    return len(charged), [*await reading.broken(_CHARGED_ONCE), *violations]


@_settled("I4", "every complete order was paid for")
async def _complete_orders_are_paid_for(reading: Reading) -> Examined:
    complete = [order for order in reading.orders.values() if order["status"] == "complete"]
    return len(complete), _unpaid(reading, complete)


def _unpaid(reading: Reading, complete: Rows) -> Iterator[Violation]:
    taken = {each.payment_id for each in reading.intents or () if each.status == "succeeded"}
    for order in complete:
        payment = reading.payments.get(order["payment_id"])
        if payment is None or payment["order_id"] != order["id"]:
            yield Violation(f"order {order['id']}", "is complete without a payment")
        elif payment["state"] not in {"captured", "refunded"}:
            yield Violation(f"order {order['id']}", f"is complete, and its payment is {payment['state']}")
        elif reading.intents is not None and payment["id"] not in taken:
            yield Violation(f"order {order['id']}", "is complete, and the provider took no money for it")


@_settled("I5", "no authorisation stays open once its order is settled")
async def _no_forgotten_authorisation(reading: Reading) -> Examined:
    ours = [
        (f"payment {each['id']}", each["order_id"])
        for each in reading.payments.values()
        if each["state"] == "authorized"
    ]
    theirs = [
        (f"authorisation {each.id}", each.order_id)
        for each in reading.intents or ()
        if each.status == "requires_capture"
    ]
    violations = [
        Violation(name, f"is open, and its order {order_id} is {_status(reading, order_id)}")
        for name, order_id in ours + theirs
        if _status(reading, order_id) not in _LIVE
    ]
    return len(ours + theirs), violations


def _status(reading: Reading, order_id: UUID) -> str:
    order = reading.orders.get(order_id)
    return "unknown" if order is None else str(order["status"])


@_settled("I6", "every order is settled or payable; none is overdue or stuck")
async def _no_overdue_order(reading: Reading) -> Examined:
    overdue = await reading.rows(
        "orders",
        "SELECT id FROM orders WHERE status = 'created' AND expires_at < instant() - make_interval(secs => $1)",
        OVERDUE_SECONDS,
    )
    stuck = await reading.rows(
        "orders",
        """
        SELECT orders.id FROM orders JOIN outbox ON outbox.aggregate = orders.id AND outbox.version = orders.version
        WHERE status = 'awaiting:payment' AND recorded_at < instant() - make_interval(secs => $1)
        """,
        UNSETTLED_SECONDS,
    )
    violations = [Violation(f"order {row['id']}", "is past its deadline and still holds its ticket") for row in overdue]
    violations += [Violation(f"order {row['id']}", "has been awaiting its payment for too long") for row in stuck]
    return len(reading.orders), violations


@_settled("I7", "a ticket is sold exactly when its order is complete, and locked exactly by a live order")
async def _locks_and_orders_agree(reading: Reading) -> Examined:
    return len(reading.tickets), _disagreeing(reading)


def _disagreeing(reading: Reading) -> Iterator[Violation]:
    for ticket in reading.tickets.values():
        if ticket["status"] == "available":
            continue
        holder = reading.orders.get(ticket["order_id"])
        allowed = {"complete"} if ticket["status"] == "sold" else _LIVE
        if holder is None or holder["ticket_id"] != ticket["id"]:
            yield Violation(f"ticket {ticket['id']}", f"is {ticket['status']} for an order that is not its own")
        elif holder["status"] not in allowed:
            name = f"order {holder['id']}, which is {holder['status']}"
            yield Violation(f"ticket {ticket['id']}", f"is {ticket['status']} for {name}")
    for order in reading.orders.values():
        if order["status"] == "cancelled":
            continue
        wanted = "sold" if order["status"] == "complete" else "reserved"
        its = reading.tickets.get(order["ticket_id"])
        if its is None or (its["status"], its["order_id"]) != (wanted, order["id"]):
            yield Violation(f"order {order['id']}", f"is {order['status']}, and its ticket is not {wanted} for it")


@_settled("I8", "every replica equals its source")
async def _replicas_equal_their_source(reading: Reading) -> Examined:
    tickets = {
        row["id"]: row
        for row in await reading.rows(
            "orders",
            "SELECT id, version, title, price_cents, currency, seller_id, status, order_id FROM ticket",
        )
    }
    orders = {
        row["id"]: row
        for row in await reading.rows(
            "payments", "SELECT id, status, user_id, price_cents, currency, expires_at FROM orders"
        )
    }
    deadlines = {row["order_id"]: row for row in await reading.rows("expiration", "SELECT * FROM deadline")}
    violations = [
        *_differing("ticket", "orders", reading.tickets, tickets),
        *_differing("order", "payments", reading.orders, orders, alike=_as_payments_knows_it),
        *_misset_alarms(reading, deadlines),
        *await _forgotten_sign_outs(reading),
    ]
    return len(reading.tickets) + 2 * len(reading.orders), violations


def _differing(
    kind: str,
    service: str,
    sources: Mapping[UUID, asyncpg.Record],
    replicas: Mapping[UUID, asyncpg.Record],
    alike: Callable[[asyncpg.Record, str], object] = lambda row, column: row[column],
) -> Iterator[Violation]:
    for missing in sources.keys() - replicas.keys():
        yield Violation(f"{kind} {missing}", f"is unknown to {service}")
    for invented in replicas.keys() - sources.keys():
        yield Violation(f"{kind} {invented}", f"is known to {service} and does not exist")
    for common in sources.keys() & replicas.keys():
        source, replica = sources[common], replicas[common]
        differing = [column for column in replica.keys() if alike(source, column) != alike(replica, column)]  # noqa: SIM118 – a record's values, not its keys, are what it iterates over
        if differing:
            yield Violation(f"{kind} {common}", f"has another {', '.join(differing)} at {service}")


def _as_payments_knows_it(order: asyncpg.Record, column: str) -> object:
    # Payments is not told that an order is complete: it told orders so itself.
    value = order[column]
    return "awaiting:payment" if (column, value) == ("status", "complete") else value


def _misset_alarms(reading: Reading, deadlines: Mapping[UUID, asyncpg.Record]) -> Iterator[Violation]:
    for order in reading.orders.values():
        deadline = deadlines.get(order["id"])
        if order["status"] != "created":
            if deadline is not None:
                yield Violation(f"order {order['id']}", f"is {order['status']}, and its alarm is still set")
        elif deadline is None:
            yield Violation(f"order {order['id']}", "has no alarm")
        elif deadline["expires_at"] != order["expires_at"]:
            yield Violation(f"order {order['id']}", "has an alarm at another time than its deadline")


async def _forgotten_sign_outs(reading: Reading) -> list[Violation]:
    ended = {
        row["id"]
        for row in await reading.rows(
            "auth",
            "SELECT id FROM session WHERE ended_at IS NOT NULL AND expires_at > instant() + interval '1 minute'",
        )
    }
    violations = []
    for service in reading.services:
        revoked = {
            row["session_id"] for row in await reading.rows(service.name, "SELECT session_id FROM revoked_session")
        }
        violations += [
            Violation(f"session {each}", f"has ended, and {service.name} accepts it") for each in ended - revoked
        ]
    return violations


@_settled("I9", "what was answered is there; what was refused left no trace")
async def _answers_hold(reading: Reading) -> Examined:
    violations: list[Violation] = []
    answers = 0
    for service, table in (("tickets", "ticket"), ("orders", "orders")):
        rows = await reading.rows(
            service,
            f"""
            SELECT response.body::jsonb ->> 'id' AS id, kept.id IS NULL AS is_gone
            FROM idempotent_response AS response LEFT JOIN {table} AS kept
                ON kept.id = (response.body::jsonb ->> 'id')::uuid
            WHERE response.status = 201
            """,  # noqa: S608 – two names of ours
        )
        answers += len(rows)
        violations += [
            Violation(f"{service} {row['id']}", "was answered and is gone") for row in rows if row["is_gone"]
        ]
    accounts = {row["id"] for row in await reading.rows("auth", "SELECT id FROM account")}
    violations += _broken_promises(reading, accounts)
    violations += _unasked_orders(reading)
    violations += _unasked_tickets(reading)
    violations += _unasked_charges(reading)
    return answers + len(reading.history), violations


def _broken_promises(reading: Reading, accounts: set[UUID]) -> Iterator[Violation]:
    """What clients were promised and cannot be found."""
    paid = {(row["order_id"], row["user_id"]) for row in reading.payments.values()}
    for asked in reading.history:
        if asked.outcome != "answered":
            continue
        ticket = reading.tickets.get(asked.ticket) if asked.ticket else None
        order = reading.orders.get(asked.order) if asked.order else None
        match asked.did:
            case "sign up" if asked.person not in accounts:
                yield Violation(f"person {asked.person}", "signed up and is gone")
            case "list" if ticket is None or ticket["seller_id"] != asked.person:
                yield Violation(f"ticket {asked.ticket}", "was listed and is gone")
            case "edit" if ticket is None or ticket["version"] < (asked.version or 0):
                yield Violation(f"ticket {asked.ticket}", f"was edited to version {asked.version}, and that is gone")
            case "order" if order is None or (order["user_id"], order["ticket_id"]) != (asked.person, asked.ticket):
                yield Violation(f"order {asked.order}", "was made and is gone")
            case "cancel" if order is None or order["status"] != "cancelled":
                yield Violation(f"order {asked.order}", "was cancelled and is not")
            case "pay" if (asked.order, asked.person) not in paid:
                yield Violation(f"order {asked.order}", "was paid for, and the payment is gone")
            case _:
                continue


def _unasked_orders(reading: Reading) -> Iterator[Violation]:
    """Orders of people in the history that nobody promised them: a refusal that had an effect after all."""
    promised = {asked.order for asked in reading.history if asked.did == "order" and asked.outcome == "answered"}
    possible = Counter(
        (asked.person, asked.ticket) for asked in reading.history if asked.did == "order" and asked.outcome == "unknown"
    )
    people = {asked.person for asked in reading.history}
    surplus = Counter(
        (order["user_id"], order["ticket_id"])
        for order in reading.orders.values()
        if order["user_id"] in people and order["id"] not in promised
    )
    for (person, ticket), count in (surplus - possible).items():
        yield Violation(
            f"person {person}", f"has {count} orders for ticket {ticket} that were refused or not asked for"
        )


def _unasked_tickets(reading: Reading) -> Iterator[Violation]:
    promised = {asked.ticket for asked in reading.history if asked.did == "list" and asked.outcome == "answered"}
    possible = Counter(asked.person for asked in reading.history if asked.did == "list" and asked.outcome == "unknown")
    people = {asked.person for asked in reading.history if asked.did == "list"}
    surplus = Counter(
        ticket["seller_id"]
        for ticket in reading.tickets.values()
        if ticket["seller_id"] in people and ticket["id"] not in promised
    )
    for person, count in (surplus - possible).items():
        yield Violation(f"person {person}", f"has {count} tickets that were refused or not asked for")


def _unasked_charges(reading: Reading) -> Iterator[Violation]:
    people = {asked.person for asked in reading.history}
    wished = {asked.order for asked in reading.history if asked.did == "pay" and asked.outcome != "refused"}
    for charge in reading.charges:
        order = reading.orders.get(charge.order_id)
        if order is not None and order["user_id"] in people and charge.order_id not in wished:
            yield Violation(charge.name, f"was taken for order {charge.order_id}, whose every payment was refused")


@_settled("I10", "the price charged is the price shown, and a locked ticket is not edited")
async def _prices_hold(reading: Reading) -> Examined:
    edited = await reading.rows(
        "tickets",
        """
        SELECT aggregate, version FROM (
            SELECT aggregate, version, told, lag(told) OVER (PARTITION BY aggregate ORDER BY version) AS before
            FROM (SELECT aggregate, version, data::jsonb AS told FROM outbox
                  WHERE type IN ('TicketCreated', 'TicketUpdated')) AS tickets
        ) AS changes
        WHERE (before ->> 'status' <> 'available' OR (before IS NOT NULL AND told ->> 'status' <> 'available'))
          AND (told ->> 'title', told ->> 'priceCents', told ->> 'currency')
              IS DISTINCT FROM (before ->> 'title', before ->> 'priceCents', before ->> 'currency')
        """,
    )
    offered = await reading.rows(
        "tickets",
        """
        SELECT aggregate, version, (data::jsonb ->> 'priceCents')::bigint AS price_cents
        FROM outbox JOIN unnest($1::uuid[], $2::integer[]) AS made (aggregate, version) USING (aggregate, version)
        WHERE type IN ('TicketCreated', 'TicketUpdated')
        """,
        [order["ticket_id"] for order in reading.orders.values()],
        [order["ticket_version"] for order in reading.orders.values()],
    )
    prices = {(row["aggregate"], row["version"]): row["price_cents"] for row in offered}
    violations = [
        Violation(f"ticket {row['aggregate']}", f"was edited while it was locked, in version {row['version']}")
        for row in edited
    ]
    violations += _changed_prices(reading, prices)
    return len(reading.orders), violations


def _changed_prices(reading: Reading, offered: Mapping[tuple[UUID, int], int]) -> Iterator[Violation]:
    for order in reading.orders.values():
        price = offered.get((order["ticket_id"], order["ticket_version"]))
        if price is not None and price != order["price_cents"]:
            yield Violation(f"order {order['id']}", "has another price than its ticket had")
        ticket = reading.tickets.get(order["ticket_id"])
        if ticket is not None and ticket["order_id"] == order["id"] and ticket["price_cents"] != order["price_cents"]:
            yield Violation(f"order {order['id']}", "has another price than the ticket locked for it")
    for asked in reading.history:
        made = reading.orders.get(asked.order) if asked.order else None
        if made is not None and asked.price_cents not in {None, made["price_cents"]}:
            yield Violation(f"order {asked.order}", "has another price than its buyer was shown")


_BROKEN_VERSIONS: Final = """
SELECT aggregate, kept.version AS kept, told.highest
FROM (
    SELECT aggregate, count(*) AS events, count(DISTINCT version) AS versions, min(version) AS lowest,
        max(version) AS highest
    FROM outbox WHERE version IS NOT NULL GROUP BY aggregate
) AS told LEFT JOIN {table} AS kept ON kept.id = told.aggregate
WHERE events <> versions OR versions <> highest - lowest + 1 OR kept.version IS DISTINCT FROM highest
"""
_COUNTED: Final = (("auth", "account", "person"), ("tickets", "ticket", "ticket"), ("orders", "orders", "order"))
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


@_always("I11", "versions grow one by one, and what has ended never changes")
async def _history_only_grows(reading: Reading) -> Examined:
    violations: list[Violation] = []
    for service, table, kind in _COUNTED:
        gaps = await reading.rows(service, _BROKEN_VERSIONS.format(table=table))
        violations += [
            Violation(f"{kind} {row['aggregate']}", "has a version that was not told, or lost one") for row in gaps
        ]
    for service, sql in _AFTER_THE_END.items():
        changed = await reading.rows(service, sql)
        violations += [
            Violation(f"{service.removesuffix('s')} {row['aggregate']}", "changed after its end") for row in changed
        ]
    return len(reading.tickets) + len(reading.orders), violations


@_always("I12", "no order expires before its deadline")
async def _nothing_expires_early(reading: Reading) -> Examined:
    expired = [order for order in reading.orders.values() if order["cancel_reason"] == "expired"]
    found = await reading.rows(
        "orders",
        """
        SELECT orders.id FROM orders JOIN outbox ON outbox.aggregate = orders.id AND outbox.type = 'OrderCancelled'
        WHERE cancel_reason = 'expired' AND recorded_at < expires_at
        """,
    )
    return len(expired), [Violation(f"order {row['id']}", "expired before its deadline") for row in found]


@_always("I13", "nobody buys from themselves, and everybody acts on their own")
async def _everybody_acts_on_their_own(reading: Reading) -> Examined:
    own = await reading.rows(
        "orders", "SELECT orders.id FROM orders JOIN ticket ON ticket.id = ticket_id WHERE seller_id = user_id"
    )
    violations = [Violation(f"order {row['id']}", "is by the ticket's own seller") for row in own]
    for service, kind in (("tickets", "ticket"), ("orders", "order")):
        moved = await reading.rows(
            service,
            """
            SELECT aggregate FROM outbox WHERE version IS NOT NULL
            GROUP BY aggregate HAVING count(DISTINCT data::jsonb ->> 'userId') > 1
            """,
        )
        violations += [Violation(f"{kind} {row['aggregate']}", "changed its owner") for row in moved]
    for payment in reading.payments.values():
        order = reading.orders.get(payment["order_id"])
        if order is not None and order["user_id"] != payment["user_id"]:
            violations.append(Violation(f"payment {payment['id']}", "is by somebody else than the order's buyer"))
    return len(reading.orders) + len(reading.payments), violations


@_settled("I14", "every event told was published and taken in by everyone who hears it; dead letters only from poison")
async def _nothing_is_lost(reading: Reading) -> Examined:
    told: dict[str, dict[UUID, str]] = {}
    violations: list[Violation] = []
    for service in reading.services:
        rows = await reading.rows(
            service.name,
            """
            SELECT id, type, stream_sequence IS NULL AS is_waiting
            FROM outbox WHERE recorded_at > instant() - $1::interval
            """,
            _REMEMBERED,
        )
        told[service.name] = {row["id"]: row["type"] for row in rows}
        violations += [
            Violation(f"event {row['id']}", f"({row['type']}) was told and is not published")
            for row in rows
            if row["is_waiting"]
        ]
    for service in reading.services:
        violations += await _missed(reading, service, told)
    return sum(map(len, told.values())), violations


async def _missed(reading: Reading, service: Service, told: Mapping[str, Mapping[UUID, str]]) -> list[Violation]:
    rows = await reading.rows(
        service.name, "SELECT id, received_at > instant() - $1::interval AS is_recent FROM inbox", _REMEMBERED
    )
    taken_in = {row["id"]: row["is_recent"] for row in rows}
    dead = await reading.rows(service.name, "SELECT id, message, given_up_at IS NOT NULL AS given_up FROM dead_letter")
    given_up = {row["id"] for row in dead if row["given_up"]}
    violations = [
        Violation(f"event {row['id']}", f"is a dead letter of {service.name}")
        for row in dead
        if row["given_up"] and not _is_poison(row["message"])
    ]
    heard: dict[str, set[str]] = defaultdict(set)
    for event in service.subscriptions:
        heard[event.producer].add(event.__name__)
    every: set[UUID] = set()
    for producer, types in heard.items():
        every |= told[producer].keys()
        violations += [
            Violation(f"event {event_id}", f"({event_type}) has not reached {service.name}")
            for event_id, event_type in told[producer].items()
            if event_type in types and event_id not in taken_in and str(event_id) not in given_up
        ]
    # An event that is older than what was read of the outboxes is none of these, though it came lately.
    oldest = min((event_id.int for event_id in every), default=0)
    violations += [
        Violation(f"event {event_id}", f"was taken in by {service.name}, and nobody told it")
        for event_id, is_recent in taken_in.items()
        if is_recent and event_id.int > oldest and event_id not in every
    ]
    return violations


def _is_poison(message: bytes) -> bool:
    try:
        unwrap(message)
    except Undecodable:
        return True
    return False


# The provider's own list.

STRIPE_URL: Final = "https://api.stripe.com"


class _Charge(msgspec.Struct):
    amount_refunded: int = 0


class _Listed(msgspec.Struct):
    id: str
    status: str
    amount: int
    currency: str
    amount_received: int = 0
    latest_charge: _Charge | None = None
    metadata: dict[str, str] = {}


class _Page(msgspec.Struct):
    data: list[_Listed]
    has_more: bool


def provider_at(url: str, secret_key: str) -> Provider:
    """Return the provider that speaks Stripe's API at `url`: Stripe, or the sandbox."""

    async def intents(installation: UUID) -> Sequence[Intent]:
        found: list[Intent] = []
        params = {"limit": str(_PAGE), "expand[]": "data.latest_charge"}
        async with httpx.AsyncClient(base_url=url, auth=_Bearer(secret_key), timeout=30) as client:
            while True:
                answer = await client.get("/v1/payment_intents", params=params)
                page = msgspec.json.decode(answer.raise_for_status().content, type=_Page)
                found += [_intent(each) for each in page.data if each.metadata.get("installation") == str(installation)]
                if not page.has_more:
                    return found
                params["starting_after"] = page.data[-1].id

    return intents


class _Bearer(httpx.Auth):
    def __init__(self, secret_key: str) -> None:
        self._secret_key = secret_key

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
        request.headers["authorization"] = f"Bearer {self._secret_key}"
        yield request


def _intent(listed: _Listed) -> Intent:
    refunded = listed.latest_charge.amount_refunded if listed.latest_charge else 0
    return Intent(
        id=listed.id,
        status=listed.status,
        amount_cents=listed.amount,
        taken_cents=max(listed.amount_received - refunded, 0),
        currency=listed.currency,
        order_id=UUID(listed.metadata["order_id"]),
        payment_id=UUID(listed.metadata["payment_id"]),
    )

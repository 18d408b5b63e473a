"""The invariants of the marketplace, checked over its databases and the payment provider.

`check` reads each database in one snapshot. Some invariants hold at every instant: one snapshot that violates them is
proof. The others compare databases that agree only once the events in progress have been applied: such a violation
counts if it is in every snapshot until the grace period is over.

A simulation or a chaos run also passes its client history (`ClientRecord`): what succeeded must be there, and what
was refused must have had no effect.
"""

from admitone.invariants import clients, events, orders, payments, replicas, tickets  # noqa: F401 – they declare them
from admitone.invariants.checker import GRACE_SECONDS, Sources, check, check_always, check_connections
from admitone.invariants.findings import INVARIANTS, Finding, Violation
from admitone.invariants.instants import IN_PROGRESS, INSTANT_CHECKS, ORDER_OF_CHARGE, charge_problem
from admitone.invariants.provider import intents_of, provider_at
from admitone.invariants.snapshot import ClientRecord, ProviderIntent, TakenCharge

__all__ = [
    "GRACE_SECONDS",
    "INSTANT_CHECKS",
    "INVARIANTS",
    "IN_PROGRESS",
    "ORDER_OF_CHARGE",
    "ClientRecord",
    "Finding",
    "ProviderIntent",
    "Sources",
    "TakenCharge",
    "Violation",
    "charge_problem",
    "check",
    "check_always",
    "check_connections",
    "intents_of",
    "provider_at",
]

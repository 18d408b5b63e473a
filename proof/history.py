"""The client history: every request as its client saw it, which the invariants compare with the databases."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from admitone.invariants import ClientRecord

Action = Literal["sign up", "list", "edit", "order", "cancel", "pay"]


@dataclass
class ClientHistory:
    """What all clients of a run requested and received."""

    records: list[ClientRecord] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Responses that are wrong by themselves, such as a 500."""
    statuses: Counter[int] = field(default_factory=Counter)
    """How often each status was received; 0 stands for no response."""
    requests: int = 0
    """Requests, each counted once however often it was repeated."""
    unanswered: int = 0
    """Those of them without a response after every retry."""

    def record(self, action: Action, person: UUID, status: int | None, success: int, **facts: Any) -> None:
        """Add a request; `status` is None if nobody can know whether it had its effect."""
        outcome: Literal["answered", "refused", "unknown"] = "refused"
        if status is None:
            outcome = "unknown"
        elif status == success:
            outcome = "answered"
        self.records.append(ClientRecord(action=action, outcome=outcome, person=person, **facts))

    def problem(self, text: str) -> None:
        if text not in self.problems:
            self.problems.append(text)

"""The client history: what a status says about a request."""

from uuid import uuid4

import pytest

from proof.history import ClientHistory


@pytest.mark.parametrize(
    ("status", "outcome"), [(201, "answered"), (400, "refused"), (200, "refused"), (None, "unknown")]
)
def test_only_the_expected_status_is_a_success(status: int | None, outcome: str) -> None:
    history = ClientHistory()
    history.record("list", uuid4(), status, 201, title="Fado night")
    assert [(each.outcome, each.title) for each in history.records] == [(outcome, "Fado night")]


def test_a_problem_is_noted_once() -> None:
    history = ClientHistory()
    for _ in range(2):
        history.problem("GET / is answered with 500")
    assert history.problems == ["GET / is answered with 500"]

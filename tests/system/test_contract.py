"""The OpenAPI document against the code: whatever a client makes of it, the answers are the ones it promises."""

from pathlib import Path

import pytest

from proof.fuzz.schema import explored
from tests.whole import running_up

SEED = 20270501
EXAMPLES_MAX = 8
# Many times what a run needs on two cores that do nothing else.
SECONDS_MAX = 200


@pytest.mark.timeout(3 * SECONDS_MAX)
def test_every_answer_is_one_that_the_document_promises(tmp_path: Path) -> None:
    with running_up(tmp_path / "data") as up:
        most, sessions = explored(up, seed=SEED, examples_max=EXAMPLES_MAX, seconds_max=SECONDS_MAX)
        assert "Authentication failed" not in most.output, most.output
        assert most.cases > 200
        assert sessions.cases > 50
        assert up.stop() == 0

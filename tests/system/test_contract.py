"""The OpenAPI document against the code: whatever a client sends, the responses are the ones it promises."""

import pytest

from proof.fuzz.schema import explore
from proof.marketplace import running_marketplace

SEED = 20270501
EXAMPLES_MAX = 8
# Many times what a run needs on two cores that do nothing else.
SECONDS_MAX = 200


@pytest.mark.timeout(3 * SECONDS_MAX)
async def test_every_response_is_one_that_the_document_promises() -> None:
    limits = {"examples_max": EXAMPLES_MAX, "seconds_max": SECONDS_MAX}
    async with running_marketplace() as marketplace:
        most, sessions = await explore(marketplace.url, seed=SEED, **limits)
        assert "Authentication failed" not in most.output, most.output
        assert most.cases > 200
        assert sessions.cases > 50

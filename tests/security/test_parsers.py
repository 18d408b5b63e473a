"""Every parser of untrusted input, on inputs that once broke one and on arbitrary bytes; `make fuzz` tries more."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proof.fuzz.parsers import TARGETS, seeds_of


@pytest.mark.parametrize("name", TARGETS)
def test_parsers_accept_or_refuse_the_kept_inputs(name: str) -> None:
    for octets in seeds_of(name):
        TARGETS[name](octets)
        for at in range(0, len(octets), 7):
            TARGETS[name](octets[:at])
            TARGETS[name](octets[:at] + b"\xff" + octets[at:])


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=60, deadline=None)
@given(octets=st.one_of(st.binary(max_size=300), st.text(max_size=100).map(str.encode)))
def test_parsers_accept_or_refuse_arbitrary_bytes(name: str, octets: bytes) -> None:
    TARGETS[name](octets)

"""The rank test that compares sign-in times."""

from random import Random

import pytest

from proof.fuzz.signin import rank_test


def test_samples_that_are_alike_could_be_chance() -> None:
    random = Random(1)
    ours, theirs = ([random.gauss(10, 1) for _ in range(200)] for _ in range(2))
    assert rank_test(ours, theirs) > 0.01


def test_samples_that_differ_are_no_chance() -> None:
    random = Random(1)
    assert rank_test([random.gauss(10, 1) for _ in range(200)], [random.gauss(11, 1) for _ in range(200)]) < 0.001


def test_interleaved_ranks_are_certainly_chance() -> None:
    assert rank_test([1.0, 4.0], [2.0, 3.0]) == pytest.approx(1.0)

"""The plan of a chaos run: drawn from a seed, with every kind of fault that this machine can bring about."""

from collections import Counter

from proof.chaos.faults import KINDS
from proof.chaos.schedule import draw

EVERYTHING = {"postgres", "nats", "clocks"}


def test_the_same_seed_draws_the_same_plan() -> None:
    assert draw(5, 8, EVERYTHING) == draw(5, 8, EVERYTHING)
    assert draw(5, 8, EVERYTHING) != draw(6, 8, EVERYTHING)


def test_eight_minutes_are_enough_for_every_kind_several_times() -> None:
    planned = Counter(each.kind.name for lane in draw(1, 8, EVERYTHING) for each in lane)
    assert planned.keys() == {kind.name for kind in KINDS}
    assert min(planned.values()) >= 2
    assert planned.total() >= 150
    assert sum(count for name, count in planned.items() if name.startswith("kill")) >= 40


def test_what_a_machine_cannot_do_is_not_planned() -> None:
    planned = {each.kind.needs for lane in draw(1, 8, ()) for each in lane}
    assert planned == {""}

"""The scripted people: how they repeat requests, and what they record of the responses."""

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from uuid import UUID, uuid4

from proof.clients import Json, Reply
from proof.history import ClientHistory
from proof.people import DECLINED_CARD, GOOD_CARD, STRAIGHT, Crowd, Person

PATIENT = replace(STRAIGHT, retries=(2,))
TICKET, ORDER, OTHER = (UUID(int=number) for number in (1, 2, 3))


class ScriptedMarketplace:
    """Responds with the given replies, and keeps the idempotency keys."""

    def __init__(self, *replies: Reply) -> None:
        self._replies = list(replies)
        self.keys: list[str] = []

    async def request(
        self, _method: str, _path: str, _session: str, _body: Json | None, headers: Mapping[str, str]
    ) -> Reply:
        self.keys.append(headers.get("idempotency-key", ""))
        return self._replies.pop(0)

    async def confirm(self, payment: Json, *, agrees: bool) -> None:
        raise AssertionError((payment, agrees))


LOST = Reply(None, headers={"retry-after": "0"})


def made(order: UUID) -> Reply:
    return Reply(201, {"id": str(order), "ticket": {"price": 19.99}})


def person(marketplace: ScriptedMarketplace) -> Person:
    return Person(uuid4(), "session", marketplace, ClientHistory(), Random(1), PATIENT)


async def test_a_request_without_a_response_is_repeated_under_the_same_key() -> None:
    marketplace = ScriptedMarketplace(LOST, LOST, made(ORDER))
    bob = person(marketplace)
    assert await bob.reserve(TICKET) == [ORDER]
    assert len(set(marketplace.keys)) == 1
    assert marketplace.keys[0]
    [record] = bob.history.records
    assert (record.outcome, record.order, record.price_cents) == ("answered", ORDER, 1999)


async def test_a_request_that_is_never_answered_is_unknown() -> None:
    bob = person(ScriptedMarketplace(LOST, LOST, LOST))
    assert await bob.reserve(TICKET) == []
    assert [each.outcome for each in bob.history.records] == ["unknown"]
    assert (bob.history.requests, bob.history.unanswered) == (1, 1)


async def test_clicks_without_a_key_are_requests_of_their_own() -> None:
    bob = person(ScriptedMarketplace(made(ORDER), Reply(400)))
    bob.habits = replace(PATIENT, keyed=0.0)
    assert await bob.reserve(TICKET, clicks=2) == [ORDER]
    assert sorted(each.outcome for each in bob.history.records) == ["answered", "refused"]


async def test_two_orders_under_one_key_are_a_problem() -> None:
    bob = person(ScriptedMarketplace(made(ORDER), made(OTHER)))
    await bob.reserve(TICKET, clicks=2)
    assert "one key made several orders" in bob.history.problems[0]


async def test_a_500_is_a_problem_and_its_outcome_unknown() -> None:
    bob = person(ScriptedMarketplace(*[Reply(500, headers={"retry-after": "0"}, text="oops")] * 3))
    assert not await bob.cancel(ORDER)
    assert bob.history.problems == [f"DELETE /api/orders/{ORDER} is answered with 500: 'oops'"]
    assert bob.history.records[0].outcome == "unknown"


async def test_a_declined_card_is_worth_another_try_and_a_closed_order_is_not() -> None:
    bob = person(ScriptedMarketplace(Reply(402), Reply(400), Reply(201, {"status": "authorized"})))
    declined, closed, held = [await bob.pay(ORDER, card) for card in (DECLINED_CARD, GOOD_CARD, GOOD_CARD)]
    assert (declined.is_done, declined.is_worth_another_try) == (False, True)
    assert (closed.is_done, closed.is_worth_another_try) == (False, False)
    assert held.is_done
    assert [each.outcome for each in bob.history.records] == ["refused", "refused", "answered"]


class CarelessMarketplace(ScriptedMarketplace):
    """Lets anybody do anything."""

    async def request(
        self, method: str, path: str, _session: str, _body: Json | None, _headers: Mapping[str, str]
    ) -> Reply:
        match method, path.split("/")[2]:
            case "POST", "tickets":
                return Reply(201, {"id": str(TICKET)})
            case "POST", "orders":
                return made(ORDER)
            case "POST", "payments":
                return Reply(201, {"status": "authorized"})
            case "PUT", _:
                return Reply(200, {"version": 1})
            case _:
                return Reply(204)


async def test_a_stranger_who_cancels_an_order_is_a_problem() -> None:
    habits = replace(STRAIGHT, meddles=1.0, reorders=0.0)
    crowd = Crowd(CarelessMarketplace(), Random(1), habits, hold_seconds=1)
    alice, bob = crowd.join(uuid4(), "alice"), crowd.join(uuid4(), "bob")
    await crowd.list_ticket(alice)
    await crowd.shop(bob)
    assert crowd.history.problems == [f"a stranger cancelled order {ORDER}"]

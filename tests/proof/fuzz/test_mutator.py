"""Mutated requests: made from a seed alone."""

from proof.fuzz.mutator import Known, MutatedRequest, Mutator, Route, field_names, octets, routes

DOCUMENT = {
    "paths": {
        "/api/tickets": {
            "get": {"parameters": [{"in": "query", "name": "q"}]},
            "post": {
                "parameters": [{"in": "header", "name": "Idempotency-Key"}],
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Listing"}}}},
            },
        }
    },
    "components": {"schemas": {"Listing": {"properties": {"title": {}, "price": {}}}}},
}
PAGES = [("POST", "/auth/signout"), ("GET", "/orders")]
KNOWN = Known(["a.b.c"], ["d.e.f"], ["ticket"], ["order"], [("payment", "pi_1", "order")], "fp", "whsec")


def made(seed: int, count: int = 300) -> list[MutatedRequest]:
    mutator = Mutator(seed, routes(DOCUMENT, PAGES), KNOWN)
    return [mutator.request() for _ in range(count)]


def test_routes_are_those_of_the_document_and_the_pages() -> None:
    found = {(each.method, each.path): each for each in routes(DOCUMENT, PAGES)}
    assert found["POST", "/api/tickets"].body == {"title": "Fado night", "price": 19.99}
    assert found["GET", "/api/tickets"].query == ("q",)
    assert found["GET", "/orders"] == Route("GET", "/orders", ("cursor",), {})
    assert found["POST", "/auth/signout"].is_form


def test_an_error_may_name_any_field_or_parameter() -> None:
    assert field_names(DOCUMENT) == {"q", "Idempotency-Key", "title", "price"}


def test_the_same_seed_makes_the_same_requests() -> None:
    assert made(1) == made(1)
    assert made(1) != made(2)


def test_some_requests_are_good_and_most_have_something_wrong() -> None:
    requests = made(3)
    assert any(not each.wrong for each in requests)
    assert {part for each in requests for part in each.wrong} > {"path", "query", "cookie", "fields", "octets"}


def test_every_request_can_be_sent() -> None:
    for each in made(4):
        assert each.scope["raw_path"].isascii()
        assert not any(set(b"\0\r\n") & set(value) for _, value in each.headers)


def test_lone_surrogates_have_octets() -> None:
    assert octets("\ud800") == b"\xed\xa0\x80"

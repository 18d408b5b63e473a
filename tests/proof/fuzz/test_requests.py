"""What is wrong with a response to hostile input."""

import pytest

from proof.fuzz.mutator import MutatedRequest
from proof.fuzz.requests import FuzzReport, ReceivedResponse, faults_of

SECURE = [
    (b"content-security-policy", b"default-src 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=()"),
    (b"cache-control", b"no-store"),
]
JSON, HTML = (b"content-type", b"application/json"), (b"content-type", b"text/html; charset=utf-8")
REFUSED = b'{"errors":[{"message":"Title must be provided","field":"title"}]}'
REQUEST = MutatedRequest("POST", "/api/tickets", route="POST /api/tickets")


def response(status: int, body: bytes, *headers: tuple[bytes, bytes]) -> ReceivedResponse:
    return ReceivedResponse(status, [*SECURE, *headers], bytearray(body))


def faults(received: ReceivedResponse) -> list[str]:
    return list(faults_of(REQUEST, received, frozenset({"title"})))


def test_a_refusal_that_is_as_promised_has_no_fault() -> None:
    assert faults(response(400, REFUSED, JSON)) == []


@pytest.mark.parametrize(
    ("received", "fault"),
    [
        (ReceivedResponse(raised=ValueError("oops")), "unhandled: ValueError('oops')"),
        (response(500, REFUSED, JSON), "status 500"),
        (response(400, b"oops", JSON), "an error that is not JSON: b'oops'"),
        (response(400, b"{}", JSON), "not the one error body: b'{}'"),
        (response(400, REFUSED.replace(b"title", b"secret"), JSON), "not the one error body"),
        (response(400, REFUSED.replace(b"Title", b"zq7mark"), JSON), "repeats the input"),
        (response(200, b"<p><zq7mark></p>", HTML), "the input is markup"),
        (response(200, b"{}", (b"content-type", b"text/plain")), "an unexpected content type: b'text/plain'"),
        (response(303, b"", (b"location", b"//evil.example")), "redirects to another site: b'//evil.example'"),
        (response(200, b"{}", JSON, (b"x-name", b"a\nb")), "a header that cannot be sent: b'x-name': b'a\\nb'"),
        (ReceivedResponse(200, [*SECURE[1:], JSON]), "without content-security-policy"),
    ],
)
def test_a_response_is_at_fault(received: ReceivedResponse, fault: str) -> None:
    [found] = faults(received)
    assert found.startswith(fault)


def test_a_report_keeps_one_example_of_each_kind() -> None:
    report = FuzzReport()
    report.add_fault("status 500", REQUEST)
    report.add_fault("status 500", MutatedRequest("PUT", route="POST /api/tickets"))
    assert list(report.faults) == ["status 500 at POST /api/tickets"]
    assert report.faults["status 500 at POST /api/tickets"].startswith("POST")

"""What mutated requests are made of: good requests, and text, values and octets that have broken software before."""

from typing import Any, Final

# Part of made-up input, so that it is noticed where it is repeated; with the bracket it would be markup.
MARK: Final = "zq7mark"
MARKUP: Final = f"<{MARK}"
SOME_ID: Final = "01980a7e-5a4c-7c31-9f0e-3b1d2c4f5a66"

TEXTS: Final = (
    "", " ", "\0", "\r\nset-cookie: a=b", "\x1b[31m", "\x7f", "\ud800", "\udfff\ud800", "\ufeff", "\ufffe", "\u202e",
    "\u200b", "e\u0301" * 300, "\U0001f469\u200d\U0001f466", "İ", "ß", "ſ", "ﷺ" * 40, "a" * 300, "a" * 70_000, "%00",
    "%", "%zz", "%u0041", "../../etc/passwd", "..", ".", "//", "/\\", "\\\\host\\x", "mine", "*", "-1", "0", "1e309",
    "1e999999999", "-0", "NaN", "Infinity", "9" * 400, "0x10", "٣", "true", "null", "[]", "{}", "' OR '1'='1",
    "';SELECT pg_sleep(1)--", '" OR 1=1', "$1", "%s", "{0}", "{{7*7}}", "${jndi:ldap://x}", "`id`", "|id",
    "javascript:alert(1)", "//evil.example", "https://evil.example/", "/\tevil", "0001-01-01T00:00",
    "9999-12-31T23:59:59+14:00", "0001-01-01T00:00:00+23:59", "2027-05-01T19:30:00Z", "2027-02-30T00:00:00Z",
    "10:00:00", "-" * 36, SOME_ID, SOME_ID.upper(), f"{{{SOME_ID}}}", SOME_ID + "\n",
    "00000000-0000-0000-0000-000000000000", f"{MARKUP}>", f'">{MARKUP} x=', f"'{MARKUP}", f"a@b.c{MARK}",
    f"{MARK}@example.com", "tok_visa", "pm_card_visa",
)  # fmt: skip
VALUES: Final[tuple[Any, ...]] = (
    None, True, False, 0, -1, 1, 0.5, 0.1, 19.99, 1e-7, 2**31, 2**63, -(2**63) - 1, 10**30, [], {}, [[]], [None],
    {"": 0}, {"$ne": 1}, {"__proto__": 1}, [["x"] * 50], [TEXTS[0]] * 100, "\ud800", "\0",
)  # fmt: skip
NUMBERS: Final = (
    "1e309", "-1e309", "1e-400", "1E400", "NaN", "-Infinity", "0" * 50, "9" * 5000, "1.0000000000000000001", "-0.0",
    "01", "1.", ".5",
)  # fmt: skip
PIECES: Final = (
    b"\0", b"\xff", b"\xed\xa0\x80", b"[" * 2000, b'{"a":' * 50, b'"', b"\\ud800", b"\\u0000", b"}", b",", b"//", b"'",
    b"\xef\xbb\xbf",
)  # fmt: skip
QUERY_PIECES: Final = (
    "&&&", "=", "a=1&a=2", "limit=1&limit=2", "q=%ff", "q=%zz", "%00=%00", ";", "&".join(["x=1"] * 50), f"q={MARK}%",
)  # fmt: skip
KINDS: Final = (
    b"text/plain", b"multipart/form-data; boundary=x", b"", b"application/json; charset=utf-16", b"\xff",
)  # fmt: skip
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "X")
HEADERS: Final = (
    "accept-encoding", "accept", "authorization", "content-length", "content-type", "cookie", "forwarded", "host",
    "idempotency-key", "if-match", "if-none-match", "last-event-id", "origin", "range", "referer", "sec-fetch-site",
    "stripe-signature", "traceparent", "transfer-encoding", "upgrade", "user-agent", "x-forwarded-for",
    "x-forwarded-host", "x-forwarded-proto", "x-http-method-override", "x-original-url",
)  # fmt: skip
HEADER_VALUES: Final = (
    "", "*", '"0"', 'W/"0"', "same-origin", "cross-site", "null", "http://127.0.0.1:8000", "https://evil.example",
    "gzip", "a" * 300, "00-" + "a" * 32 + "-" + "b" * 16 + "-01", "t=1,v1=" + "0" * 64, "t=,v1=", f"v1={MARK}",
    "bytes=0-1", "127.0.0.1, ::1", "unknown", "999999999999999999999", "-1", MARKUP, "application/json", "chunked",
    "websocket", "0-0", "x-99999999999999999999", "t=1780000000,v1=\u00ff",
)  # fmt: skip

# Examples for the fields of bodies, forms and queries, by name.
GOOD: Final[dict[str, Any]] = {
    "email": "alice@example.com", "password": "correct horse battery staple",
    "currentPassword": "correct horse battery staple", "emailPassword": "correct horse battery staple",
    "title": "Fado night", "price": 19.99, "faceValue": 25, "eventDate": "2027-05-01T19:30:00Z",
    "eventInstant": "2027-05-01T19:30:00Z", "venue": "Clube", "section": "A", "row": "3", "seat": "12",
    "note": "Row by the door", "ticketId": SOME_ID,
    "orderId": SOME_ID, "token": "tok_visa", "limit": "20", "cursor": "", "q": "fado", "sort": "price",
    "key": "a-key-of-mine", "etag": '"0"', "next": "/orders", "was": "20.00", "payment_intent": "pi_1", "back": "bank",
    "since": "0-0", "done": "email", "field": "price", "typed": "1,500", "currency": "usd",
}  # fmt: skip
# A webhook that fits its payment and reports nothing that could be trusted: `processing` is no final status.
WEBHOOK: Final[dict[str, Any]] = {
    "id": "evt_1", "object": "event", "type": "payment_intent.processing", "livemode": False, "created": 1_780_000_000,
    "data": {
        "object": {
            "id": "pi_1", "object": "payment_intent", "status": "processing", "amount": 1999, "currency": "usd",
            "created": 1_780_000_000, "livemode": False, "amount_received": 0, "client_secret": None,
            "latest_charge": {"amount_refunded": 0}, "last_payment_error": {"code": "x", "message": "y"},
            "metadata": {"order_id": SOME_ID, "payment_id": SOME_ID, "attempt": "1"},
        },
    },
}  # fmt: skip
_LISTING: Final = (
    *("title", "price", "faceValue", "eventDate", "eventInstant", "venue", "section", "row", "seat", "note"),
)
FORMS: Final[dict[str, tuple[str, ...]]] = {
    "/auth/signup": ("email", "password", "next", "key"),
    "/auth/signin": ("email", "password", "next"),
    "/auth/signout": (),
    "/account/email": ("email", "emailPassword"),
    "/account/password": ("currentPassword", "password"),
    "/account/signout-everywhere": (),
    "/tickets/new": (*_LISTING, "key"),
    "/tickets/{id}/edit": (*_LISTING, "etag"),
    "/tickets/{id}/buy": ("price", "key"),
    "/orders/{id}/pay": ("token", "key"),
    "/orders/{id}/cancel": (),
}
QUERIES: Final[dict[str, tuple[str, ...]]] = {
    "/": ("q", "sort", "cursor"), "/auth/signup": ("next",), "/auth/signin": ("next",), "/account": ("done",),
    "/sell": ("cursor",), "/orders": ("cursor",), "/orders/{id}": ("payment_intent", "back", "was"),
    "/live": ("since",), "/amount": ("field", "typed", "currency"),
}  # fmt: skip

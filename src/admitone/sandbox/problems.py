"""What the API refuses, in Stripe's error shape.

Source: Stripe API reference, "Errors" and "Error codes".
"""

from typing import Any, Final

Json = dict[str, Any]

_DOCUMENTED: Final = "https://stripe.com/docs/error-codes/{code}"


class Problem(Exception):
    """An answer other than success: its status and its error object."""

    def __init__(self, status: int, message: str, *, kind: str = "invalid_request_error", **fields: Any) -> None:
        super().__init__(message)
        self.status = status
        self.error: Json = {"message": message, "type": kind, **fields}
        if code := fields.get("code"):
            self.error["doc_url"] = _DOCUMENTED.format(code=code.replace("_", "-"))

    @property
    def body(self) -> Json:
        return {"error": self.error}


def invalid(message: str, *, param: str | None = None, code: str | None = None, **fields: Any) -> Problem:
    """Return the 400 for a request that makes no sense."""
    named = {name: value for name, value in (("param", param), ("code", code)) if value is not None}
    return Problem(400, message, **named, **fields)


def missing(kind: str, object_id: str, param: str = "intent") -> Problem:
    """Return the 404 for an object that does not exist."""
    return Problem(404, f"No such {kind}: '{object_id}'", code="resource_missing", param=param)


def unexpected_state(message: str, intent: Json) -> Problem:
    """Return the 400 for something that the intent's status does not allow."""
    return invalid(message, code="payment_intent_unexpected_state", payment_intent=intent)


def internal() -> Problem:
    """Return the 500 that faults on demand answer with."""
    return Problem(500, "An unknown error occurred", kind="api_error")


def too_many_requests() -> Problem:
    """Return the 429 that faults on demand answer with."""
    return Problem(429, "Request rate limit exceeded", code="rate_limit")

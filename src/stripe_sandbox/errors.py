"""Error responses in Stripe's format.

Source: Stripe API reference, "Errors" and "Error codes".
"""

from typing import Any

Json = dict[str, Any]


class ApiError(Exception):
    """A request is refused and has no effect. Error fields that are None are left out."""

    def __init__(
        self, message: str, status: int = 400, *, type_: str = "invalid_request_error", code: str = "", **fields: Any
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error: Json = {"message": message, "type": type_}
        if code:
            self.error |= {"code": code, "doc_url": f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}"}
        self.error |= {name: value for name, value in fields.items() if value is not None}

    @property
    def body(self) -> Json:
        return {"error": self.error}


class IntentFailed(ApiError):
    """A payment is declined, which is an effect: the failed charge and the PaymentIntent's new status stay"""


def no_such(kind: str, object_id: str, param: str, status: int = 400) -> ApiError:
    """Return the error about an object that a parameter names; the status of one that the path names is 404."""
    return ApiError(f"No such {kind}: '{object_id}'", status, code="resource_missing", param=param)


def internal_error() -> ApiError:
    return ApiError("An unknown error occurred", 500, type_="api_error")


def not_found() -> ApiError:
    return ApiError("No such object; a similar object exists in another account", 404, code="resource_missing")

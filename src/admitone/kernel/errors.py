"""Errors that refuse a request; a class's docstring is the message people read. Anything else that is raised is a bug.

Only `http/app.py` knows the HTTP status code of each.
"""

import msgspec


class FieldError(msgspec.Struct, frozen=True, omit_defaults=True):
    """One broken rule; `field` is set only if a single input is to blame."""

    message: str
    field: str | None = None


class Refusal(Exception):
    """The request was refused"""

    field: str | None = None
    retry_after_seconds: int | None = None

    @property
    def errors(self) -> list[FieldError]:
        """The entries of the error body, one per broken rule."""
        return [FieldError(self.message, self.field)]

    @property
    def message(self) -> str:
        return (self.args[0] if self.args else None) or self.meaning()

    @classmethod
    def meaning(cls) -> str:
        """Return the class's message: the first line of its docstring."""
        assert cls.__doc__
        return cls.__doc__.strip().splitlines()[0]


class Invalid(Refusal):
    """The request is not valid"""


class InvalidFields(Invalid):
    """One or more fields are not valid"""

    def __init__(self, errors: list[FieldError]) -> None:
        super().__init__()
        self._errors = errors

    @property
    def errors(self) -> list[FieldError]:
        return self._errors


class NotSignedIn(Refusal):
    """Not authorized"""


class PaymentRequired(Refusal):
    """The payment was refused"""


class Forbidden(Refusal):
    """Not allowed"""


class NotFound(Refusal):
    """Not Found"""


class MethodNotAllowed(Refusal):
    """Method not allowed"""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        super().__init__()
        self.allowed = allowed


class Conflict(Refusal):
    """Something else happened first"""


class PreconditionFailed(Refusal):
    """It changed since you read it; read it again"""


class NotInTime(Refusal):
    """The request did not arrive in time; send it again"""


class HeadTooLarge(Refusal):
    """The request's head is larger than 32 KiB, or has more than 100 fields"""


class BodyTooLarge(Refusal):
    """The body is larger than 64 KiB"""


class UnsupportedMediaType(Refusal):
    """The body must be application/json"""


class Misdirected(Refusal):
    """This is not the host that the request is for"""


class IdempotencyKeyReused(Refusal):
    """This Idempotency-Key was used for a different request"""


class TooManyRequests(Refusal):
    """Too many tries; wait a moment"""

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__()
        self.retry_after_seconds = retry_after_seconds


class Unavailable(Refusal):
    """We are busy or restarting; try again in a moment"""

    retry_after_seconds = 1

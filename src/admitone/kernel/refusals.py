"""Refusals: the answers "no" that people read; anything else that is raised is a bug.

    Refusal
    ├── Invalid               what was asked for breaks a rule
    ├── NotSignedIn           nobody is signed in
    ├── PaymentRequired       the card was refused
    ├── Forbidden             somebody else's
    ├── Missing               no such thing
    ├── MethodNotAllowed      the path knows other methods
    ├── Conflict              a lost race
    ├── Stale                 changed since it was read
    ├── TooLarge              more than we read
    ├── WrongMediaType        not JSON
    ├── KeyReused             an idempotency key used for something else
    ├── TooManyTries          come back later
    └── Unavailable           we cannot answer now

A class's docstring is its message. `http.py` alone knows which status code each kind becomes.
"""

import msgspec


class FieldError(msgspec.Struct, frozen=True, omit_defaults=True):
    """One failed rule; `field` is named only where one input is to blame."""

    message: str
    field: str | None = None


class Refusal(Exception):
    """The request was refused"""

    field: str | None = None
    retry_after_seconds: int | None = None

    @property
    def errors(self) -> list[FieldError]:
        """What people read, one entry per failed rule."""
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


class Missing(Refusal):
    """Not Found"""


class MethodNotAllowed(Refusal):
    """Method not allowed"""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        super().__init__()
        self.allowed = allowed


class Conflict(Refusal):
    """Something else happened first"""


class Stale(Refusal):
    """It changed since you read it; read it again"""


class TooLarge(Refusal):
    """The body is larger than 64 KiB"""


class WrongMediaType(Refusal):
    """The body must be application/json"""


class KeyReused(Refusal):
    """This Idempotency-Key was used for a different request"""


class TooManyTries(Refusal):
    """Too many tries; wait a moment"""

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__()
        self.retry_after_seconds = retry_after_seconds


class Unavailable(Refusal):
    """We are busy or restarting; try again in a moment"""

    retry_after_seconds = 1

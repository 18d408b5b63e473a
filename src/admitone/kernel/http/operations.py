"""What a service declares about its HTTP API: operations, the request a use case gets, and its response."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

import msgspec
from starlette.requests import Request as HttpRequest

from admitone.kernel.database.pool import Database
from admitone.kernel.errors import Invalid, NotFound, NotSignedIn, Refusal, Unavailable
from admitone.kernel.http import parsing
from admitone.kernel.http.sessions import SignedInUser
from admitone.kernel.running import Resources, RunningService
from admitone.kernel.waiting import WaitLimit

OK: Final = 200
CREATED: Final = 201
ACCEPTED: Final = 202
NO_CONTENT: Final = 204
SEE_OTHER: Final = 303
NOT_MODIFIED: Final = 304
INTERNAL_ERROR: Final = 500

IDEMPOTENCY_KEY_CHARACTERS_MAX: Final = 255

_ENCODER: Final = msgspec.json.Encoder(decimal_format="number")

Input = TypeVar("Input")


@dataclass(frozen=True)
class Response:
    """A status and a body; the body is encoded as JSON unless it is bytes."""

    status: int
    body: msgspec.Struct | bytes | dict[str, Any] | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def encoded(self) -> bytes:
        """Return the body's bytes; no body is the empty string."""
        if isinstance(self.body, bytes):
            return self.body
        return b"" if self.body is None else _ENCODER.encode(self.body)


class InProgress:
    """Counts the requests of one operation in progress; those beyond the limit raise Unavailable."""

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._count = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        if self._count >= self._count_max:
            raise Unavailable
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1

    @contextmanager
    def not_counted(self) -> Iterator[None]:
        """Do not count a request, which is counted otherwise, during the block; it is never refused afterwards."""
        self._count -= 1
        try:
            yield
        finally:
            self._count += 1


@dataclass(slots=True)
class Request(Generic[Input, Resources]):
    """A request to one service, as its use case sees it.

    `input` is the parsed body, the parsed query for operations without a body, or None.
    """

    service: RunningService[Resources]
    http: HttpRequest
    input: Input
    maybe_user: SignedInUser | None
    in_progress: InProgress

    @property
    def db(self) -> Database:
        return self.service.database

    @property
    def resources(self) -> Resources:
        return self.service.resources

    @property
    def user(self) -> SignedInUser:
        """The signed-in user; raises NotSignedIn without one."""
        if self.maybe_user is None:
            raise NotSignedIn
        return self.maybe_user

    @contextmanager
    def waiting(self, waits: WaitLimit) -> Iterator[bool]:
        """Yield whether the request may wait for something to happen elsewhere.

        Only so many may as `waits` allow, and they do not count as in progress: what they wait for may never come, and
        must not keep others out.
        """
        with waits.of(self.user.id) as may_wait, self.in_progress.not_counted():
            yield may_wait

    def id(self, name: str = "id") -> UUID:
        """Return an id from the path; raises NotFound if it is malformed, since nothing has such an id."""
        try:
            return parsing.uuid(self.http.path_params[name])
        except ValueError:
            raise NotFound from None

    @property
    def idempotency_key(self) -> str | None:
        """The caller's Idempotency-Key: 1 to 255 visible ASCII characters. Raises Invalid."""
        key = self.http.headers.get("idempotency-key")
        if key is None:
            return None
        if not (0 < len(key) <= IDEMPOTENCY_KEY_CHARACTERS_MAX and key.isascii() and key.isprintable()):
            raise Invalid("Idempotency-Key must be 1 to 255 visible characters")
        return key


UseCase = Callable[[Request[Any, Resources]], Awaitable[Response]]


@dataclass(frozen=True)
class Operation(Generic[Resources]):
    """One operation of the API. The OpenAPI document is generated from these."""

    method: str
    path: str
    use_case: UseCase[Resources]
    status: int = OK
    body: type[msgspec.Struct] | None = None
    query: type[msgspec.Struct] | None = None
    returns: Any = None
    raises: Sequence[type[Refusal]] = ()
    signed_in: bool = False
    idempotent: bool = False
    raw_body: bool = False
    request_headers: Mapping[str, str] = field(default_factory=dict)
    response_headers: Mapping[str, str] = field(default_factory=dict)
    other_responses: Mapping[int, str] = field(default_factory=dict)
    examples: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.use_case.__doc__, f"{self.use_case.__name__} needs a docstring: it is the operation's summary"
        assert self.body is None or self.query is None, f"{self.use_case.__name__}: a use case has one input"


def operation(method: str, path: str, **options: Any) -> Callable[[UseCase[Resources]], Operation[Resources]]:
    """Declare a use case as an operation of the API; `options` are the other fields of `Operation`.

    `returns` is the type of the success body. `raises` lists the refusals of the use case itself, in addition to those
    implied by the other options. `request_headers` and `response_headers` map names to descriptions;
    `other_responses` describes statuses that are neither success nor refusal. With `raw_body` the use case reads the
    body itself (webhooks).
    """

    def declare(use_case: UseCase[Resources]) -> Operation[Resources]:
        return Operation(method, path, use_case, **options)

    return declare

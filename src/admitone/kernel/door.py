"""The door: who comes while an operation is full is told so before a request is made of what was read.

Refusing must cost next to nothing, or those who are refused would take the time of those who are not: at twice the
capacity half of all requests are.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Says what to answer a method and a URL at once, if anything: a whole response.
Refusal = Callable[[bytes, bytes], bytes | None]


class _Answered:
    """Stands where uvicorn keeps the request it is answering: this one is answered, and what is left of it dropped."""

    response_complete = True
    message_event = asyncio.Event()


_ANSWERED: Final[Any] = _Answered()


class Door(HttpToolsProtocol):
    """Uvicorn's HTTP/1.1, which asks `refusal` first."""

    def __init__(self, refusal: Refusal, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._refusal = refusal

    def on_headers_complete(self) -> None:
        answer = self._refusal(self.parser.get_method(), self.url)
        if answer is None or not self._is_plain:
            super().on_headers_complete()
            return
        self.cycle = _ANSWERED
        self.transport.write(answer)
        self.on_response_complete()

    @property
    def _is_plain(self) -> bool:
        """Whether nothing has to be answered before, or otherwise than with the response alone."""
        before: Any = self.cycle
        return (
            (before is None or before.response_complete)
            and self.parser.should_keep_alive()
            and not self.parser.should_upgrade()
            and not self.expect_100_continue
        )

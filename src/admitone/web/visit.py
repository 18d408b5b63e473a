"""One request for a page: who asks, on whose behalf the services are asked, and how a page is answered."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from admitone.kernel.errors import NotFound
from admitone.kernel.http import parsing
from admitone.kernel.http.operations import OK, SEE_OTHER
from admitone.kernel.http.sessions import SignedInUser
from admitone.web import render
from admitone.web.backend import Backend, Caller
from admitone.web.forms import posted
from admitone.web.resources import Web

_POLICY: Final = (
    "default-src 'none'; script-src 'self'{script}; style-src 'self'; img-src 'self'; connect-src 'self'{connect}; "
    "{frame}form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
OWN_POLICY: Final = _POLICY.format(script="", connect="", frame="")
# Source: Stripe documentation, "Integration security guide", content security policy.
STRIPE_POLICY: Final = _POLICY.format(
    script=" https://js.stripe.com",
    connect=" https://api.stripe.com",
    frame="frame-src https://js.stripe.com https://hooks.stripe.com; ",
)
_PLACE_CHARACTERS_MAX: Final = 500
_COMPRESSED_FROM_BYTES: Final = 1000
_COMPRESSION_LEVEL: Final = 3  # a higher one takes twice the time to save a twentieth
_GZIP_WINDOW: Final = 31

# What a form post does to a place; the place itself is where one returns to.
_DEEDS: Final = ("/buy", "/pay", "/cancel", "/email", "/password", "/signout-everywhere")


class SignInFirst(Exception):
    """This page is for people who are signed in"""


@dataclass
class Visit:
    """One request for a page, by somebody who may be signed in."""

    web: Web
    request: Request
    viewer: SignedInUser | None

    @property
    def backend(self) -> Backend:
        return self.web.backend

    @property
    def caller(self) -> Caller:
        return Caller.of(self.request, trust_proxy=self.web.settings.trust_proxy)

    @property
    def path(self) -> str:
        return self.request.url.path

    @property
    def id(self) -> str:
        """The id in the path; a malformed one names nothing, so it is Missing."""
        try:
            return str(parsing.uuid(self.request.path_params["id"]))
        except ValueError:
            raise NotFound from None

    @property
    def person(self) -> SignedInUser:
        """Who is signed in; raises SignInFirst when nobody is."""
        if self.viewer is None:
            raise SignInFirst
        return self.viewer

    @property
    def place(self) -> str:
        """Where the visitor is, to come back to after signing in."""
        if self.request.method == "POST":
            for deed in _DEEDS:
                if self.path.endswith(deed):
                    return self.path.removesuffix(deed)
        query = self.request.url.query
        return f"{self.path}?{query}" if query and self.request.method == "GET" else self.path

    def forget_session(self) -> None:
        """Take the visitor for signed out from now on, before the bus tells so."""
        if self.viewer is not None:
            self.web.sessions.revoke(self.viewer.session_id)

    async def posted(self) -> dict[str, str]:
        return await posted(self.request)

    def asked(self, name: str, default: str = "") -> str:
        return self.request.query_params.get(name, default)

    def html(self, template: str, title: str, *, live_id: str | None = None, **context: Any) -> bytes:
        """Return a page's bytes; `live_id` is the moment from which its live messages must follow."""
        return render.page(
            template,
            path=self.path,
            signed_in=self.viewer is not None,
            live_id=live_id if live_id is not None else self.web.hub.last_id,
            title=title,
            hold=self.web.policy.hold_seconds,
            **context,
        ).encode()

    @property
    def keeping(self) -> str:
        """How browsers may keep this page: what somebody saw signed in must not be seen by the next one."""
        return "no-store" if self.viewer is not None else "private, no-cache"

    def page(
        self,
        template: str,
        title: str,
        *,
        status: int = OK,
        cookies: Sequence[str] = (),
        policy: str = OWN_POLICY,
        **context: Any,
    ) -> Response:
        """Answer with a page."""
        html = self.html(template, title, **context)
        return self.answer(html, status=status, cookies=cookies, policy=policy)

    def answer(
        self,
        html: bytes,
        *,
        status: int = OK,
        cookies: Sequence[str] = (),
        policy: str = OWN_POLICY,
        compressed: bytes | None = None,
    ) -> Response:
        """Answer with a finished page, compressed where the browser reads that."""
        content = html
        headers = {
            "content-type": "text/html; charset=utf-8",
            "content-security-policy": policy,
            "cache-control": self.keeping,
            "vary": "accept-encoding, cookie",
        }
        if len(html) >= _COMPRESSED_FROM_BYTES and "gzip" in self.request.headers.get("accept-encoding", ""):
            content = compressed if compressed is not None else compress(html)
            headers["content-encoding"] = "gzip"
        response = Response(content, status, headers)
        for cookie in cookies:
            response.headers.append("set-cookie", cookie)
        return response


def compress(html: bytes) -> bytes:
    stream = zlib.compressobj(_COMPRESSION_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    return stream.compress(html) + stream.flush()


def go(place: str, cookies: Sequence[str] = ()) -> Response:
    """Answer a form post with the page to look at next."""
    # A line break in a header would begin another header.
    assert place.isascii(), place
    assert place.isprintable(), place
    response = Response(status_code=SEE_OTHER, headers={"location": place, "content-security-policy": OWN_POLICY})
    for cookie in cookies:
        response.headers.append("set-cookie", cookie)
    return response


def own_place(place: str) -> str:
    """Return a place on this site, or `/` for anything else: a link must not lead people elsewhere after signing in."""
    is_own = place.startswith("/") and not place.startswith("//") and len(place) <= _PLACE_CHARACTERS_MAX
    is_plain = place.isascii() and place.isprintable() and "\\" not in place
    return place if is_own and is_plain else "/"


def address(path: str, **query: str) -> str:
    """Return a path with the query parameters that are not empty."""
    given = {name: value for name, value in query.items() if value}
    return f"{path}?{urlencode(given)}" if given else path

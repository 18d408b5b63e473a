"""A request for a page, and the HTML response or redirect that answers it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from admitone.kernel.errors import NotFound
from admitone.kernel.http import parsing
from admitone.kernel.http.operations import OK, SEE_OTHER
from admitone.kernel.http.sessions import SignedInUser
from admitone.web import render
from admitone.web.api_client import ApiClient, ForwardedClient
from admitone.web.compression import accepts_gzip, compress
from admitone.web.forms import read_form
from admitone.web.resources import WebResources

_CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'{script}; style-src 'self'; img-src 'self'; connect-src 'self'{connect}; "
    "{frame}form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
CONTENT_SECURITY_POLICY: Final = _CONTENT_SECURITY_POLICY.format(script="", connect="", frame="")
# Source: Stripe documentation, "Integration security guide", content security policy.
STRIPE_CONTENT_SECURITY_POLICY: Final = _CONTENT_SECURITY_POLICY.format(
    script=" https://js.stripe.com",
    connect=" https://api.stripe.com",
    frame="frame-src https://js.stripe.com https://hooks.stripe.com; ",
)
_LOCAL_URL_CHARACTERS_MAX: Final = 500
_COMPRESS_FROM_BYTES: Final = 1000

# The last part of a form's path; the page the form is on is at the path without it.
_ACTIONS: Final = ("/buy", "/pay", "/cancel", "/email", "/password", "/signout-everywhere")


class SignInRequired(Exception):
    """The page is only for signed-in users"""


@dataclass
class PageRequest:
    """One request for a page, from a user who may be signed in."""

    resources: WebResources
    http: HttpRequest
    maybe_user: SignedInUser | None
    _form: dict[str, str] | None = None

    @property
    def api(self) -> ApiClient:
        return self.resources.api

    @property
    def forwarded(self) -> ForwardedClient:
        return ForwardedClient.of(self.http, self.resources.sessions, trust_proxy=self.resources.settings.trust_proxy)

    @property
    def path(self) -> str:
        return self.http.url.path

    @property
    def id(self) -> UUID:
        """The id in the path; raises NotFound if it is malformed, since nothing has such an id."""
        try:
            return parsing.uuid(self.http.path_params["id"])
        except ValueError:
            raise NotFound from None

    @property
    def user(self) -> SignedInUser:
        """The signed-in user; raises SignInRequired without one."""
        if self.maybe_user is None:
            raise SignInRequired
        return self.maybe_user

    @property
    def return_url(self) -> str:
        """The page the user is on, to return to after signing in."""
        if self.http.method == "POST":
            for action in _ACTIONS:
                if self.path.endswith(action):
                    return self.path.removesuffix(action)
        query = self.http.url.query
        return f"{self.path}?{query}" if query and self.http.method == "GET" else self.path

    def revoke_session(self) -> None:
        """Refuse the user's session in this process from now on, before its revocation arrives by the bus."""
        if self.maybe_user is not None:
            self.resources.sessions.revoke(self.maybe_user.session_id, self.maybe_user.expires_at)

    async def form(self) -> dict[str, str]:
        """Return the fields of the posted form; the body can be read once, so they are kept."""
        if self._form is None:
            self._form = await read_form(self.http)
        return self._form

    def query(self, name: str, default: str = "") -> str:
        return self.http.query_params.get(name, default)

    def render(self, template: str, title: str, *, live_id: str | None = None, **context: Any) -> bytes:
        """Return a page's HTML; its live stream resumes after the message `live_id`."""
        return render.page(
            template,
            path=self.path,
            signed_in=self.maybe_user is not None,
            live_id=live_id if live_id is not None else self.resources.hub.last_id,
            title=title,
            hold_seconds=self.resources.policy.hold_seconds,
            **context,
        ).encode()

    def page(
        self,
        template: str,
        title: str,
        *,
        status: int = OK,
        content_security_policy: str = CONTENT_SECURITY_POLICY,
        **context: Any,
    ) -> Response:
        """Return a response with a rendered page."""
        html = self.render(template, title, **context)
        return self.respond(html, status=status, content_security_policy=content_security_policy)

    def respond(
        self,
        html: bytes,
        *,
        status: int = OK,
        content_security_policy: str = CONTENT_SECURITY_POLICY,
        compressed: bytes | None = None,
    ) -> Response:
        """Return a response with this HTML, compressed if the browser accepts that."""
        content = html
        headers = {
            "content-type": "text/html; charset=utf-8",
            "content-security-policy": content_security_policy,
            # A page shown to a signed-in user must not be shown to the next user of the browser.
            "cache-control": "no-store" if self.maybe_user is not None else "private, no-cache",
            "vary": "accept-encoding, cookie",
        }
        if len(html) >= _COMPRESS_FROM_BYTES and accepts_gzip(self.http):
            content = compressed if compressed is not None else compress(html)
            headers["content-encoding"] = "gzip"
        return Response(content, status, headers)


def redirect(url: str, cookies: Sequence[str] = ()) -> Response:
    """Return a redirect to the page to show after a form was posted."""
    # A line break in a header would start another header.
    assert url.isascii(), url
    assert url.isprintable(), url
    headers = {"location": url, "content-security-policy": CONTENT_SECURITY_POLICY}
    response = Response(status_code=SEE_OTHER, headers=headers)
    for cookie in cookies:
        response.headers.append("set-cookie", cookie)
    return response


def local_url(url: str) -> str:
    """Return a URL on this site, or `/` for any other: signing in must not lead to another site (open redirect)."""
    is_local = url.startswith("/") and not url.startswith("//") and len(url) <= _LOCAL_URL_CHARACTERS_MAX
    is_plain = url.isascii() and url.isprintable() and "\\" not in url
    return url if is_local and is_plain else "/"


def with_query(path: str, **query: str) -> str:
    """Return a path with the query parameters that are not empty."""
    given = {name: value for name, value in query.items() if value}
    return f"{path}?{urlencode(given)}" if given else path

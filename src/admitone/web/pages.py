"""Every page and form of the site, and what people see when one of them cannot be shown."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from admitone.kernel import errors
from admitone.kernel.errors import NotFound, Refusal
from admitone.kernel.http.app import session_token, status_of
from admitone.kernel.http.operations import INTERNAL_ERROR
from admitone.kernel.http.sessions import SignedInUser
from admitone.kernel.running import RunningService
from admitone.web import account, assets, buying, catalogue, selling
from admitone.web.backend import Refused
from admitone.web.live import LiveStream
from admitone.web.resources import Web
from admitone.web.visit import SignInFirst, Visit, address, go

log = logging.getLogger(__name__)

PageFunction = Callable[[Visit], Awaitable[Response]]

# For each kind of refusal: what happened, and what to do next.
_WORDS: Final[Mapping[type[Refusal], tuple[str, str]]] = {
    errors.Forbidden: (
        "This is somebody else’s",
        "Only the person it belongs to can see it. Perhaps you are signed in with another account.",
    ),
    errors.NotFound: (
        "There is no such page",
        "The address may be old or mistyped. The tickets on sale are one step away.",
    ),
    errors.MethodNotAllowed: ("That cannot be done here", "Go back to the page you came from and try it from there."),
    errors.Unavailable: (
        "We cannot answer just now",
        "Nothing is lost, and nothing was charged for this. Try again in a moment.",
    ),
    errors.TooManyRequests: ("Too many tries", "Wait a moment, then try again."),
    Refusal: ("We could not read that", "Go back, load the page again and send it once more."),
}
_BROKEN_WORDS: Final = (
    "Something went wrong on our side",
    "It is noted. Try again; if it stays, come back a little later.",
)


class _Page:
    """Runs one page function and turns everything it may raise into a page."""

    def __init__(self, service: RunningService[Web], show: PageFunction, *, signed_in: bool = False) -> None:
        self._service = service
        self._show = show
        self._signed_in = signed_in

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        web = self._service.resources
        viewer: SignedInUser | None = None
        try:
            viewer = await self._service.sessions.user(session_token(request))
            response = await self._answer(Visit(web, request, viewer))
        except Refusal as refusal:
            response = _error_page(Visit(web, request, viewer), type(refusal))
        except Exception:
            log.exception("page failed", extra={"path": scope["path"]})
            response = _error_page(Visit(web, request, viewer), None)
        await response(scope, receive, send)

    async def _answer(self, visit: Visit) -> Response:
        if self._signed_in and visit.viewer is None:
            return go(address("/auth/signin", next=visit.place))
        try:
            return await self._show(visit)
        except SignInFirst:
            return go(address("/auth/signin", next=visit.place))
        except Refused as refused:
            if issubclass(refused.kind, errors.NotSignedIn):
                visit.forget_session()  # a service knows better; otherwise signing in would lead straight back here
                return go(address("/auth/signin", next=visit.place))
            return _error_page(visit, refused.kind)


def _error_page(visit: Visit, kind: type[Refusal] | None) -> Response:
    if kind is None:
        status, (what, next_step) = INTERNAL_ERROR, _BROKEN_WORDS
    else:
        status = status_of(kind)
        what, next_step = next(_WORDS[each] for each in kind.__mro__ if each in _WORDS)
    can_retry = visit.request.method == "GET" and (kind is None or issubclass(kind, errors.Unavailable))
    retry = visit.place if can_retry else None
    return visit.page("error.html", what, status=status, code=status, what=what, next_step=next_step, retry=retry)


class _Nothing(_Page):
    """Every address that is no page; below `/api/` the kernel's own answer is due."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith("/api/"):
            raise NotFound
        await super().__call__(scope, receive, send)


async def _missing(_visit: Visit) -> Response:
    raise NotFound


def pages(service: RunningService[Web]) -> Sequence[BaseRoute]:
    """Return the site's routes."""

    def page(path: str, show: PageFunction, method: str = "GET") -> Route:
        return Route(path, _Page(service, show), methods=[method])

    def own_page(path: str, show: PageFunction, method: str = "GET") -> Route:
        return Route(path, _Page(service, show, signed_in=True), methods=[method])

    return [
        Route("/static/{edition}/{name}", assets.static_file, methods=["GET"]),
        Route("/live", LiveStream(service), methods=["GET"]),
        page("/", catalogue.Shelf(service.resources).show),
        page("/auth/signup", account.sign_up),
        page("/auth/signup", account.signed_up, "POST"),
        page("/auth/signin", account.sign_in),
        page("/auth/signin", account.signed_in, "POST"),
        page("/auth/signout", account.sign_out),
        page("/auth/signout", account.signed_out, "POST"),
        own_page("/account", account.account),
        own_page("/account/email", account.email_changed, "POST"),
        own_page("/account/password", account.password_changed, "POST"),
        own_page("/account/signout-everywhere", account.signed_out_everywhere, "POST"),
        own_page("/tickets/new", selling.new_ticket),
        own_page("/tickets/new", selling.listed, "POST"),
        own_page("/tickets/{id}/edit", selling.edit_ticket),
        own_page("/tickets/{id}/edit", selling.edited, "POST"),
        own_page("/sell", selling.own_listings),
        page("/tickets/{id}", catalogue.ticket),
        own_page("/tickets/{id}/buy", buying.bought, "POST"),
        own_page("/orders", buying.own_orders),
        own_page("/orders/{id}", buying.order),
        own_page("/orders/{id}/pay", buying.paid, "POST"),
        own_page("/orders/{id}/cancel", buying.cancelled, "POST"),
        Route("/{anything:path}", _Nothing(service, _missing)),
    ]

"""The routes of every page and form, and the pages for errors. This is the HTTP edge of the web service."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from admitone.kernel import errors
from admitone.kernel.errors import NotFound, Refusal
from admitone.kernel.http.app import status_of
from admitone.kernel.http.operations import INTERNAL_ERROR
from admitone.kernel.running import RunningService
from admitone.web import account, assets, buying, listings, selling
from admitone.web.api_client import ServiceRefused
from admitone.web.live import LiveStream
from admitone.web.page_request import PageRequest, SignInRequired, redirect, with_query
from admitone.web.resources import WebResources

log = logging.getLogger(__name__)

PageFunction = Callable[[PageRequest], Awaitable[Response]]
KeptFields = Callable[[Mapping[str, str]], Mapping[str, str]]

# For each kind of refusal: what happened, and what to do next.
_ERROR_TEXTS: Final[Mapping[type[Refusal], tuple[str, str]]] = {
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
_BUG_TEXT: Final = (
    "Something went wrong on our side",
    "It is noted. Try again; if it stays, come back a little later.",
)


class _PageEndpoint:
    """The ASGI endpoint of one page function; it turns whatever the function raises into a page or a redirect."""

    def __init__(
        self,
        service: RunningService[WebResources],
        page_function: PageFunction,
        *,
        signed_in: bool = False,
        kept_fields: KeptFields | None = None,
    ) -> None:
        self._service = service
        self._page_function = page_function
        self._signed_in = signed_in
        self._kept_fields = kept_fields

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = PageRequest(self._service.resources, HttpRequest(scope, receive), None)
        try:
            request.maybe_user = await self._service.sessions.user_of(request.http.headers)
            response = await self._respond(request)
        except Refusal as refusal:
            response = _error_page(request, type(refusal))
        except Exception:
            log.exception("page failed", extra={"path": scope["path"]})
            response = _error_page(request, None)
        await response(scope, receive, send)

    async def _respond(self, request: PageRequest) -> Response:
        if self._signed_in and request.maybe_user is None:
            return await self._to_sign_in(request)
        try:
            return await self._page_function(request)
        except SignInRequired:
            return await self._to_sign_in(request)
        except ServiceRefused as refused:
            if issubclass(refused.kind, errors.NotSignedIn):
                # The service knows of a revocation that has not arrived here: the sign-in page would redirect back.
                request.revoke_session()
                request.maybe_user = None
                return await self._to_sign_in(request)
            return _error_page(request, refused.kind)

    async def _to_sign_in(self, request: PageRequest) -> Response:
        if self._kept_fields is not None:
            return account.sign_in_again_page(request, self._kept_fields(await request.form()))
        return redirect(with_query("/auth/signin", next=request.return_url))


def _error_page(request: PageRequest, kind: type[Refusal] | None) -> Response:
    """Return the page for a refusal, or for a bug if there is no kind."""
    if kind is None:
        status, (heading, next_step) = INTERNAL_ERROR, _BUG_TEXT
    else:
        status = status_of(kind)
        heading, next_step = next(_ERROR_TEXTS[each] for each in kind.__mro__ if each in _ERROR_TEXTS)
    can_retry = request.http.method == "GET" and (kind is None or issubclass(kind, errors.Unavailable))
    retry_url = request.return_url if can_retry else None
    return request.page(
        "error.html", heading, status=status, code=status, heading=heading, next_step=next_step, retry_url=retry_url
    )


class _NotFoundEndpoint(_PageEndpoint):
    """Every path without a page; below `/api/` the kernel's JSON error is the right response."""

    def __init__(self, service: RunningService[WebResources]) -> None:
        super().__init__(service, _not_found)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith("/api/"):
            raise NotFound
        await super().__call__(scope, receive, send)


async def _not_found(_request: PageRequest) -> Response:
    raise NotFound


def pages(service: RunningService[WebResources]) -> Sequence[BaseRoute]:
    """Return the routes of the site."""

    def page(path: str, function: PageFunction, method: str = "GET") -> Route:
        return Route(path, _PageEndpoint(service, function), methods=[method])

    def signed_in(path: str, function: PageFunction, method: str = "GET") -> Route:
        return Route(path, _PageEndpoint(service, function, signed_in=True), methods=[method])

    def filled_in(path: str, function: PageFunction, kept_fields: KeptFields) -> Route:
        """A form whose fields are kept if the session ended while it was filled in."""
        endpoint = _PageEndpoint(service, function, signed_in=True, kept_fields=kept_fields)
        return Route(path, endpoint, methods=["POST"])

    return [
        Route("/static/{fingerprint}/{name}", assets.static_file, methods=["GET"]),
        Route("/live", LiveStream(service), methods=["GET"]),
        page("/", listings.ListingsPageCache(service.resources).show),
        page("/auth/signup", account.sign_up_form),
        page("/auth/signup", account.sign_up, "POST"),
        page("/auth/signin", account.sign_in_form),
        page("/auth/signin", account.sign_in, "POST"),
        page("/auth/signout", account.sign_out_form),
        page("/auth/signout", account.sign_out, "POST"),
        signed_in("/account", account.show_account),
        filled_in("/account/email", account.change_email, account.kept_email),
        page("/account/email/signin", account.sign_in_and_restore_email, "POST"),
        signed_in("/account/password", account.change_password, "POST"),
        signed_in("/account/signout-everywhere", account.sign_out_everywhere, "POST"),
        page("/amount", selling.show_amount),
        signed_in("/tickets/new", selling.new_ticket_form),
        filled_in("/tickets/new", selling.list_ticket, selling.kept_fields),
        page("/tickets/new/signin", selling.sign_in_and_restore_new_ticket, "POST"),
        signed_in("/tickets/{id}/edit", selling.edit_ticket_form),
        filled_in("/tickets/{id}/edit", selling.save_ticket, selling.kept_fields),
        page("/tickets/{id}/edit/signin", selling.sign_in_and_restore_edit, "POST"),
        signed_in("/sell", selling.show_listings_of_user),
        page("/tickets/{id}", listings.show_ticket),
        signed_in("/tickets/{id}/buy", buying.reserve_ticket, "POST"),
        signed_in("/orders", buying.show_orders_of_user),
        signed_in("/orders/{id}", buying.show_order),
        signed_in("/orders/{id}/pay", buying.pay, "POST"),
        signed_in("/orders/{id}/cancel", buying.cancel_order, "POST"),
        Route("/{anything:path}", _NotFoundEndpoint(service)),
    ]

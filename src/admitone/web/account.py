"""Accounts: signing up, in and out, and changing the e-mail address or the password."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final

from starlette.responses import Response

from admitone.kernel import ids
from admitone.kernel.errors import FieldError, Invalid, NotSignedIn, Refusal, TooManyRequests
from admitone.kernel.http.app import status_of
from admitone.kernel.http.operations import OK
from admitone.web.api_client import ServiceRefused, session_of
from admitone.web.formatting import duration
from admitone.web.forms import Form, idempotency_key
from admitone.web.page_request import PageRequest, SignInRequired, local_url, redirect, with_query

_SIGN_IN_AGAIN: Final = "/signin"
_SIGN_IN_FIELDS: Final = ("email", "password")
_NEW_EMAIL: Final = "newEmail"
_ACCOUNT_FIELDS: Final = ("email", "emailPassword", "currentPassword", "password")
_CHANGED: Final = {
    "email": "Your e-mail address is changed.",
    "password": "Your password is changed. Other devices are signed out.",
}


async def sign_up_form(request: PageRequest) -> Response:
    return _sign_in_page(request, Form(_SIGN_IN_FIELDS), local_url(request.query("next", "/")), new=True)


async def sign_in_form(request: PageRequest) -> Response:
    return _sign_in_page(request, Form(_SIGN_IN_FIELDS), local_url(request.query("next", "/")), new=False)


async def sign_up(request: PageRequest) -> Response:
    return await _sign_in(request, new=True)


async def sign_in(request: PageRequest) -> Response:
    return await _sign_in(request, new=False)


async def _sign_in(request: PageRequest, *, new: bool) -> Response:
    fields = await request.form()
    next_url = local_url(fields.get("next", "/"))
    typed = {name: fields.get(name, "") for name in _SIGN_IN_FIELDS}
    try:
        if new:
            cookies = await request.api.sign_up(request.forwarded, typed, idempotency_key(fields))
        else:
            cookies = await request.api.sign_in(request.forwarded, typed)
    except ServiceRefused as refused:
        if not issubclass(refused.kind, (Invalid, TooManyRequests)):
            raise
        form = Form(_SIGN_IN_FIELDS, {"email": typed["email"]}, _errors(refused))
        return _sign_in_page(request, form, next_url, new=new, status=status_of(refused.kind))
    return redirect(next_url, cookies)


def sign_in_again_page(
    request: PageRequest, kept: Mapping[str, str], form: Form | None = None, *, status: int | None = None
) -> Response:
    """Return a page to sign in on for a user whose session ended while filling in a form.

    It posts the fields `kept` of that form along, to `/signin` below the form's path, where `sign_in_again` belongs.
    """
    form = form or Form(_SIGN_IN_FIELDS)
    return request.page(
        "signin.html",
        _title("Sign in", form),
        status=status or status_of(NotSignedIn),
        heading="Sign in again",
        reason="Your session has ended. Sign in, and your form is as you filled it in.",
        form=form,
        action=f"{request.path.removesuffix(_SIGN_IN_AGAIN)}{_SIGN_IN_AGAIN}",
        hidden=kept,
        new=False,
        other_url=None,
    )


async def sign_in_again(
    request: PageRequest, kept: Mapping[str, str], show_form: Callable[[PageRequest], Awaitable[Response]]
) -> Response:
    """Sign in and show the form that was being filled in."""
    fields = await request.form()
    typed = {name: fields.get(name, "") for name in _SIGN_IN_FIELDS}
    try:
        cookies = await request.api.sign_in(request.forwarded, typed)
    except ServiceRefused as refused:
        if not issubclass(refused.kind, (Invalid, TooManyRequests)):
            raise
        form = Form(_SIGN_IN_FIELDS, {"email": typed["email"]}, _errors(refused))
        return sign_in_again_page(request, kept, form, status=status_of(refused.kind))
    try:
        sessions = request.resources.sessions
        user = await sessions.user(session_of(cookies, sessions.cookie))
        response = await show_form(replace(request, maybe_user=user))
    except (Refusal, ServiceRefused, SignInRequired):
        # Signed in all the same: the form's own page says what is wrong.
        return redirect(request.path.removesuffix(_SIGN_IN_AGAIN), cookies)
    for cookie in cookies:
        response.headers.append("set-cookie", cookie)
    return response


def _errors(refused: ServiceRefused) -> list[FieldError]:
    """Return the service's errors, or the time to wait if it named one."""
    if issubclass(refused.kind, TooManyRequests) and refused.retry_after_seconds:
        return [FieldError(f"Too many tries. Try again in {duration(refused.retry_after_seconds)}.")]
    return refused.errors


def _sign_in_page(request: PageRequest, form: Form, next_url: str, *, new: bool, status: int = OK) -> Response:
    if request.maybe_user is not None:
        return redirect(next_url)
    heading = "Sign up" if new else "Sign in"
    return request.page(
        "signin.html",
        _title(heading, form),
        status=status,
        heading=heading,
        reason=_reason(next_url),
        form=form,
        action="/auth/signup" if new else "/auth/signin",
        hidden={"next": next_url, **({"key": ids.new_token(16)} if new else {})},
        new=new,
        other_url=with_query("/auth/signin" if new else "/auth/signup", next=next_url if next_url != "/" else ""),
    )


def _title(title: str, form: Form) -> str:
    return f"Error: {title}" if form.errors else title


def _reason(next_url: str) -> str:
    """Return why the user was sent here to sign in, or an empty string."""
    if next_url == "/tickets/new":
        return "Then you can list your ticket."
    if next_url.startswith("/tickets/"):
        return "Then you come back to the ticket."
    return "Then you come back to where you were." if next_url != "/" else ""


async def sign_out_form(request: PageRequest) -> Response:
    """Confirm signing out, for users who follow a link; afterwards, show that the user is signed out."""
    return request.page("signout.html", "Sign out", user=request.maybe_user)


async def sign_out(request: PageRequest) -> Response:
    cookies = await request.api.sign_out(request.forwarded)
    request.revoke_session()
    return redirect("/auth/signout", cookies)


async def show_account(request: PageRequest) -> Response:
    form = Form(_ACCOUNT_FIELDS, {"email": request.user.email})
    return _account_page(request, form, changed=_CHANGED.get(request.query("done"), ""))


def _account_page(request: PageRequest, form: Form, *, changed: str = "", status: int = OK) -> Response:
    title = _title("Account", form)
    return request.page("account.html", title, status=status, form=form, changed=changed, user=request.user)


async def change_email(request: PageRequest) -> Response:
    fields = await request.form()
    body = {"email": fields.get("email", ""), "currentPassword": fields.get("emailPassword", "")}
    return await _change(request, body, "email", {"currentPassword": "emailPassword"})


def kept_email(fields: Mapping[str, str]) -> dict[str, str]:
    """Return what is kept of the form: the new address, apart from the one to sign in with."""
    return {_NEW_EMAIL: fields.get("email", "")}


async def sign_in_and_restore_email(request: PageRequest) -> Response:
    """Sign in again, and show the account with the new address as it was typed."""
    kept = {_NEW_EMAIL: (await request.form()).get(_NEW_EMAIL, "")}

    async def show_form(signed_in: PageRequest) -> Response:
        return _account_page(signed_in, Form(_ACCOUNT_FIELDS, {"email": kept[_NEW_EMAIL]}))

    return await sign_in_again(request, kept, show_form)


async def change_password(request: PageRequest) -> Response:
    fields = await request.form()
    body = {"password": fields.get("password", ""), "currentPassword": fields.get("currentPassword", "")}
    return await _change(request, body, "password", {})


async def _change(request: PageRequest, body: dict[str, str], what: str, form_fields: dict[str, str]) -> Response:
    """Change the account; `form_fields` maps the API's names of fields to the form's where they differ."""
    user = request.user
    try:
        cookies = await request.api.change_account(request.forwarded, body)
    except ServiceRefused as refused:
        if not issubclass(refused.kind, (Invalid, TooManyRequests)):
            raise
        errors = [
            FieldError(each.message, form_fields.get(each.field, each.field) if each.field else None)
            for each in _errors(refused)
        ]
        form = Form(_ACCOUNT_FIELDS, {"email": body.get("email", user.email)}, errors)
        return _account_page(request, form, status=status_of(refused.kind))
    return redirect(f"/account?done={what}", cookies)


async def sign_out_everywhere(request: PageRequest) -> Response:
    try:
        cookies = await request.api.sign_out_everywhere(request.forwarded)
    except ServiceRefused as refused:
        if not issubclass(refused.kind, NotSignedIn):
            raise
        return redirect("/auth/signout")
    request.revoke_session()
    return redirect("/auth/signout", cookies)

"""Signing up, in and out, and changing what one signed up with."""

from typing import Final

from starlette.responses import Response

from admitone.kernel import ids
from admitone.kernel.errors import FieldError, Invalid, NotSignedIn, TooManyRequests
from admitone.kernel.http.app import status_of
from admitone.kernel.http.operations import OK
from admitone.web.backend import Refused
from admitone.web.forms import Form, key_of
from admitone.web.visit import Visit, address, go, own_place
from admitone.web.words import minutes

_FIELDS: Final = ("email", "password")
_ACCOUNT_FIELDS: Final = ("email", "emailPassword", "currentPassword", "password")


async def sign_up(visit: Visit) -> Response:
    return _entrance(visit, Form(_FIELDS), own_place(visit.asked("next", "/")), new=True)


async def sign_in(visit: Visit) -> Response:
    return _entrance(visit, Form(_FIELDS), own_place(visit.asked("next", "/")), new=False)


async def signed_up(visit: Visit) -> Response:
    return await _enter(visit, new=True)


async def signed_in(visit: Visit) -> Response:
    return await _enter(visit, new=False)


async def _enter(visit: Visit, *, new: bool) -> Response:
    fields = await visit.posted()
    place = own_place(fields.get("next", "/"))
    typed = {name: fields.get(name, "") for name in _FIELDS}
    try:
        if new:
            session = await visit.backend.sign_up(visit.caller, typed, key_of(fields))
        else:
            session = await visit.backend.sign_in(visit.caller, typed)
    except Refused as refused:
        if not issubclass(refused.kind, (Invalid, TooManyRequests)):
            raise
        form = Form(_FIELDS, {"email": typed["email"]}, _said(refused))
        return _entrance(visit, form, place, new=new, status=status_of(refused.kind))
    return go(place, session.cookies)


def _said(refused: Refused) -> list[FieldError]:
    """Return what a service said, with the time to wait where it named one."""
    if issubclass(refused.kind, TooManyRequests) and refused.retry_after_seconds:
        return [FieldError(f"Too many tries. Try again in {minutes(refused.retry_after_seconds)}.")]
    return refused.errors


def _entrance(visit: Visit, form: Form, place: str, *, new: bool, status: int = OK) -> Response:
    if visit.viewer is not None:
        return go(place)
    return visit.page(
        "signin.html",
        _marked("Sign up" if new else "Sign in", form),
        status=status,
        heading="Sign up" if new else "Sign in",
        reason=_reason(place),
        form=form,
        action="/auth/signup" if new else "/auth/signin",
        next=place,
        new=new,
        key=ids.new_token(16),
        other=address("/auth/signin" if new else "/auth/signup", next=place if place != "/" else ""),
    )


def _marked(title: str, form: Form) -> str:
    return f"Error: {title}" if form.errors else title


def _reason(place: str) -> str:
    """Say why somebody who was on the way to a place finds themselves here."""
    if place == "/tickets/new":
        return "Then you can list your ticket."
    if place.startswith("/tickets/"):
        return "Then you come back to the ticket."
    return "Then you come back to where you were." if place != "/" else ""


async def sign_out(visit: Visit) -> Response:
    """Ask before signing out, for those who come by a link; show that one is signed out."""
    return visit.page("signout.html", "Sign out", viewer=visit.viewer)


async def signed_out(visit: Visit) -> Response:
    session = await visit.backend.sign_out(visit.caller)
    visit.forget_session()
    return go("/auth/signout", session.cookies)


_DONE: Final = {
    "email": "Your e-mail address is changed.",
    "password": "Your password is changed. Other devices are signed out.",
}


async def account(visit: Visit) -> Response:
    form = Form(_ACCOUNT_FIELDS, {"email": visit.person.email})
    return _account(visit, form, done=_DONE.get(visit.asked("done"), ""))


def _account(visit: Visit, form: Form, *, done: str = "", status: int = OK) -> Response:
    return visit.page(
        "account.html", _marked("Account", form), status=status, form=form, done=done, viewer=visit.person
    )


async def email_changed(visit: Visit) -> Response:
    fields = await visit.posted()
    body = {"email": fields.get("email", ""), "currentPassword": fields.get("emailPassword", "")}
    return await _change(visit, body, "email", {"currentPassword": "emailPassword"})


async def password_changed(visit: Visit) -> Response:
    fields = await visit.posted()
    body = {"password": fields.get("password", ""), "currentPassword": fields.get("currentPassword", "")}
    return await _change(visit, body, "password", {})


async def _change(visit: Visit, body: dict[str, str], what: str, renamed: dict[str, str]) -> Response:
    person = visit.person
    try:
        session = await visit.backend.change_person(visit.caller, body)
    except Refused as refused:
        if not issubclass(refused.kind, (Invalid, TooManyRequests)):
            raise
        errors = [
            FieldError(each.message, renamed.get(each.field, each.field) if each.field else None)
            for each in _said(refused)
        ]
        form = Form(_ACCOUNT_FIELDS, {"email": body.get("email", person.email)}, errors)
        return _account(visit, form, status=status_of(refused.kind))
    return go(f"/account?done={what}", session.cookies)


async def signed_out_everywhere(visit: Visit) -> Response:
    """End every session of this person."""
    try:
        session = await visit.backend.sign_out_everywhere(visit.caller)
    except Refused as refused:
        if not issubclass(refused.kind, NotSignedIn):
            raise
        return go("/auth/signout")
    visit.forget_session()
    return go("/auth/signout", session.cookies)

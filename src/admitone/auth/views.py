"""Request and response types of auth's API."""

from typing import Annotated, Final
from uuid import UUID

import msgspec

from admitone.auth.model import (
    PASSWORD_CHARACTERS_MAX,
    PASSWORD_CHARACTERS_MIN,
    Account,
    read_email,
    read_new_password,
    read_password,
)
from admitone.kernel.http.parsing import Rule

_EmailText = Annotated[str, msgspec.Meta(max_length=254, extra_json_schema={"format": "email"})]
_NewPasswordText = Annotated[str, msgspec.Meta(min_length=PASSWORD_CHARACTERS_MIN, max_length=PASSWORD_CHARACTERS_MAX)]
_PasswordText = Annotated[str, msgspec.Meta(min_length=1)]
_EMAIL: Final = Rule("Email must be valid", read_email)
_NEW_PASSWORD: Final = Rule(
    f"Password must be between {PASSWORD_CHARACTERS_MIN} and {PASSWORD_CHARACTERS_MAX} characters", read_new_password
)


def _optional(rule: Rule) -> Rule:
    """Return the rule for a field where null means the same as leaving it out."""
    return Rule(rule.message, lambda value: None if value is None else rule.read(value))


class SignUp(msgspec.Struct, frozen=True):
    """The credentials of a new account."""

    email: Annotated[_EmailText, _EMAIL]
    password: Annotated[_NewPasswordText, _NEW_PASSWORD]


class SignIn(msgspec.Struct, frozen=True):
    """The credentials of an account."""

    email: Annotated[_EmailText, _EMAIL]
    password: Annotated[_PasswordText, Rule("You must supply a password", read_password)]


class AccountChange(msgspec.Struct, frozen=True, rename="camel"):
    """A new e-mail, a new password or both; the current password proves that the account's owner asks for it."""

    current_password: Annotated[_PasswordText, Rule("You must supply your current password", read_password)]
    email: Annotated[_EmailText | None, _optional(_EMAIL)] = None
    password: Annotated[_NewPasswordText | None, _optional(_NEW_PASSWORD)] = None


class UserView(msgspec.Struct, frozen=True):
    """A user."""

    id: UUID
    email: str


class CurrentUser(msgspec.Struct, frozen=True, rename="camel"):
    """The signed-in user, or null."""

    current_user: UserView | None


class SignedOut(msgspec.Struct, frozen=True):
    """An empty object."""


def user_view(account: Account) -> UserView:
    return UserView(account.id, account.email)

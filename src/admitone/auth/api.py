"""What people and other services may ask auth."""

from admitone.auth.own import Own
from admitone.auth.tokens import KeySet
from admitone.kernel.http import OK, Answer, Call, operation


def _own(call: Call[None]) -> Own:
    own = call.service.own
    assert isinstance(own, Own)
    return own


@operation("GET", "/api/users/jwks", answers=KeySet)
async def public_keys(call: Call[None]) -> Answer:
    """The public keys with which anybody can verify a session token."""
    return Answer(OK, _own(call).keys.published, headers=((b"cache-control", b"public, max-age=60"),))

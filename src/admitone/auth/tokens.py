"""Session tokens: auth signs them; every service verifies them with the public keys auth publishes."""

import base64
import hashlib
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Final, Self

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from admitone.kernel.http.sessions import ALGORITHM, AUDIENCE, ISSUER, TOKEN_TYPE, SignedInUser
from admitone.kernel.settings import SettingsError

_PEM_BLOCK: Final = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)


class PublicKey(msgspec.Struct, frozen=True, kw_only=True):
    """A public key as a JSON Web Key (RFC 8037, §2)."""

    kty: str = "OKP"
    crv: str = "Ed25519"
    use: str = "sig"
    alg: str = ALGORITHM
    kid: str
    x: str


class KeySet(msgspec.Struct, frozen=True):
    """A JSON Web Key Set (RFC 7517, §5)."""

    keys: list[PublicKey]


class SigningKeys:
    """The keys of `ADMITONE_SIGNING_KEY`: the first one signs, all are published.

    To rotate a key without ending sessions: append the new one, wait until every service has fetched it, move it to the
    front, and remove the old one when the last token it signed has expired.
    """

    def __init__(self, keys: Sequence[Ed25519PrivateKey]) -> None:
        self._signing = keys[0]
        self.published = KeySet([_public(key) for key in keys])

    @classmethod
    def from_pem(cls, pem: str) -> Self:
        """Read one or more PEM blocks; raises SettingsError if any of them is not an Ed25519 private key."""
        if not pem.strip():
            raise SettingsError("ADMITONE_SIGNING_KEY is not set: auth needs an Ed25519 private key to sign sessions")
        blocks = [match[0] for match in _PEM_BLOCK.finditer(pem)]
        try:
            keys = [load_pem_private_key(block.encode(), password=None) for block in blocks]
        except (ValueError, TypeError, UnsupportedAlgorithm):
            keys = []
        ed25519 = [key for key in keys if isinstance(key, Ed25519PrivateKey)]
        if not blocks or len(ed25519) != len(blocks):
            raise SettingsError("ADMITONE_SIGNING_KEY must be Ed25519 private keys in unencrypted PKCS #8 PEM")
        return cls(ed25519)

    def sign(self, user: SignedInUser, issued_at: datetime) -> str:
        """Return the token of a user's session; it expires with the session."""
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": str(user.id),
            "sid": str(user.session_id),
            "email": user.email,
            "iat": int(issued_at.timestamp()),
            "exp": int(user.expires_at),
        }
        headers = {"typ": TOKEN_TYPE, "kid": self.published.keys[0].kid}
        return jwt.encode(claims, self._signing, ALGORITHM, headers)


def new_signing_key() -> str:
    """Return a new Ed25519 private key in PEM, the format of `ADMITONE_SIGNING_KEY`."""
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _public(key: Ed25519PrivateKey) -> PublicKey:
    x = _base64url(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
    # Exactly the required members, in lexicographic order. Source: RFC 7638, §3, and RFC 8037, §2.
    thumbprint = hashlib.sha256(f'{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}'.encode()).digest()
    return PublicKey(kid=_base64url(thumbprint), x=x)


def _base64url(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()

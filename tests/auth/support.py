"""Helpers of auth's tests: signing in by hand, clients at other addresses, and forged tokens."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any, cast

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from admitone.auth.tokens import SigningKeys
from admitone.kernel import clock, ids
from admitone.kernel.runner import App

WRONG_PASSWORD = "not the password"


async def signed_in_email(client: httpx.AsyncClient) -> str | None:
    """Return the e-mail of the client's user, or None if it has no valid session."""
    response = await client.get("/api/users/currentuser")
    assert response.status_code == 200
    user = response.json()["currentUser"]
    return None if user is None else str(user["email"])


async def try_sign_in(
    client: httpx.AsyncClient, email: str = "alice@example.com", password: str = WRONG_PASSWORD
) -> httpx.Response:
    return await client.post("/api/users/signin", json={"email": email, "password": password})


def client_at(app: App, address: str) -> httpx.AsyncClient:
    """Return a client whose requests come from this address."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app, client=(address, 1)), base_url="http://127.0.0.1")


def private_key(pem: str) -> Ed25519PrivateKey:
    return cast(Ed25519PrivateKey, load_pem_private_key(pem.encode(), password=None))


def key_id(pem: str) -> str:
    return SigningKeys.from_pem(pem).published.keys[0].kid


def base64url(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


class Forger:
    """Makes tokens that differ from a valid one in a single respect; it knows auth's signing key."""

    def __init__(self, pem: str) -> None:
        self.pem = pem
        now = int(clock.now().timestamp())
        self.claims: dict[str, Any] = {
            "iss": "admitone",
            "aud": "admitone",
            "sub": str(ids.new_id()),
            "sid": str(ids.new_id()),
            "email": "eve@example.com",
            "iat": now,
            "exp": now + 3600,
        }
        self.headers = {"typ": "at+jwt", "kid": key_id(pem)}

    def sign(self, *, pem: str | None = None, headers: dict[str, Any] | None = None, **claims: Any) -> str:
        """Return a signed token with these claims and headers replaced; None removes one."""
        return self.encode("EdDSA", private_key(pem or self.pem).sign, headers or {}, claims)

    def encode(
        self,
        algorithm: str,
        signature: Callable[[bytes], bytes],
        headers: dict[str, Any] | None = None,
        claims: dict[str, Any] | None = None,
    ) -> str:
        parts = ({**self.headers, "alg": algorithm, **(headers or {})}, {**self.claims, **(claims or {})})
        header, body = ({name: value for name, value in part.items() if value is not None} for part in parts)
        signed = f"{base64url(json.dumps(header).encode())}.{base64url(json.dumps(body).encode())}"
        return f"{signed}.{base64url(signature(signed.encode()))}"

    def with_public_key_as_secret(self, secret: bytes) -> str:
        return self.encode("HS256", lambda signed: hmac.digest(secret, signed, hashlib.sha256))

    def tampered(self) -> str:
        header, _, signature = self.sign().split(".")
        return f"{header}.{base64url(json.dumps({**self.claims, 'sub': str(ids.new_id())}).encode())}.{signature}"

    def with_broken_signature(self) -> str:
        header, claims, signature = self.sign().split(".")
        return f"{header}.{claims}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"


def cookie_of(token: str) -> list[tuple[bytes, bytes]]:
    return [(b"cookie", b"session=" + token.encode("latin-1"))]


def public_pem(forger: Forger) -> bytes:
    return private_key(forger.pem).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def public_octets(forger: Forger) -> bytes:
    return private_key(forger.pem).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

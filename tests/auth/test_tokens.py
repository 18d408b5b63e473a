"""Tokens that are not what they say, the keys that tell, and how a key is replaced."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from admitone.auth.service import SERVICE
from admitone.auth.tokens import SigningKeys, new_signing_key
from admitone.kernel import clock, ids
from admitone.kernel.runner import App
from admitone.kernel.settings import SettingsError
from tests.engines import Databases
from tests.support import (
    PASSWORD,
    StartNats,
    app_of,
    messages_of,
    set_token,
    settings_for,
    sign_in,
    sign_up,
    signing_key_of,
    with_settings,
)


def private_key(pem: str) -> Ed25519PrivateKey:
    return cast(Ed25519PrivateKey, load_pem_private_key(pem.encode(), password=None))


def key_id(pem: str) -> str:
    return SigningKeys.from_pem(pem).published.keys[0].kid


def base64url(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


class Forger:
    """Makes tokens that differ from a good one in one thing; knows auth's own key, where that is the point."""

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
        """With claims or headers of one's own; None leaves one out."""
        return self.written("EdDSA", private_key(pem or self.pem).sign, headers or {}, claims)

    def written(
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
        return self.written("HS256", lambda signed: hmac.digest(secret, signed, hashlib.sha256))

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


BAD_TOKENS: dict[str, Callable[[Forger], str]] = {
    "tampered": Forger.tampered,
    "broken signature": Forger.with_broken_signature,
    "no signature": lambda forger: forger.sign().rpartition(".")[0] + ".",
    "expired": lambda forger: forger.sign(exp=forger.claims["iat"] - 1),
    "alg none": lambda forger: forger.written("none", lambda _: b""),
    "alg NONE": lambda forger: forger.written("NONE", lambda _: b""),
    "the public key's PEM as secret": lambda forger: forger.with_public_key_as_secret(public_pem(forger)),
    "the public key's octets as secret": lambda forger: forger.with_public_key_as_secret(public_octets(forger)),
    "another issuer": lambda forger: forger.sign(iss="elsewhere"),
    "another audience": lambda forger: forger.sign(aud="elsewhere"),
    "another type": lambda forger: forger.sign(headers={"typ": "JWT"}),
    "an unknown key": lambda forger: forger.sign(headers={"kid": "unknown"}),
    "no key": lambda forger: forger.sign(headers={"kid": None}),
    "another key under our id": lambda forger: forger.sign(pem=new_signing_key()),
    "another key of its own": lambda forger: Forger(new_signing_key()).sign(),
    "a key it brings along": lambda forger: Forger(new_signing_key()).sign(
        headers={"jwk": {"kty": "OKP"}, "jku": "https://evil.example/keys"}
    ),
    "no subject": lambda forger: forger.sign(sub=None),
    "no session": lambda forger: forger.sign(sid=None),
    "no e-mail": lambda forger: forger.sign(email=None),
    "no expiry": lambda forger: forger.sign(exp=None),
    "an expiry that is no number": lambda forger: forger.sign(exp="tomorrow"),
    "a subject that is no id": lambda forger: forger.sign(sub="1"),
    "a session that is no id": lambda forger: forger.sign(sid="1"),
    "huge": lambda forger: forger.sign(email="e" * 100_000),
    "a claim that is an object": lambda forger: forger.sign(iss={"$ne": ""}),
    "empty": lambda _: "",
    "not a token": lambda _: "a.b.c",
    "dots": lambda _: "." * 2000,
    "not even ASCII": lambda _: "\u00ff\u00fe",
    "JSON that is no object": lambda _: f"{base64url(b'[]')}.{base64url(b'[]')}.{base64url(b'')}",
    "nested JSON": lambda _: f"{base64url(b'[' * 1200)}.e30.e30",
}


@pytest.fixture
def forger(app: App) -> Forger:
    return Forger(signing_key_of(app))


async def test_g03_a_token_of_the_forger_is_good_where_nothing_is_wrong(
    somebody: httpx.AsyncClient, forger: Forger
) -> None:
    set_token(somebody, forger.sign())
    answer = await somebody.get("/api/users/currentuser")
    assert answer.json() == {"currentUser": {"id": forger.claims["sub"], "email": "eve@example.com"}}


@pytest.mark.parametrize("what", BAD_TOKENS)
async def test_g03_a_bad_token_is_nobody(somebody: httpx.AsyncClient, forger: Forger, what: str) -> None:
    cookie = cookie_of(BAD_TOKENS[what](forger))
    answer = await somebody.get("/api/users/currentuser", headers=cookie)
    assert (answer.status_code, answer.json()) == (200, {"currentUser": None})
    change = {"currentPassword": PASSWORD, "email": "eve@example.org"}
    answer = await somebody.put("/api/users/currentuser", json=change, headers=cookie)
    assert (answer.status_code, messages_of(answer)) == (401, [("Not authorized", None)])
    assert (await somebody.post("/api/users/signout", headers=cookie)).status_code == 200


async def test_g03_a_good_session_survives_a_storm_of_bad_ones(
    alice: httpx.AsyncClient, somebody: httpx.AsyncClient, forger: Forger
) -> None:
    for make in BAD_TOKENS.values():
        await somebody.get("/api/users/currentuser", headers=cookie_of(make(forger)))
    assert (await alice.get("/api/users/currentuser")).json()["currentUser"]["email"] == "alice@example.com"


async def test_the_public_keys_are_public_only_and_may_be_kept_a_minute(app: App, somebody: httpx.AsyncClient) -> None:
    answer = await somebody.get("/api/users/jwks")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "public, max-age=60"
    (key,) = answer.json()["keys"]
    assert key.keys() == {"kty", "crv", "use", "alg", "kid", "x"}
    assert (key["kty"], key["crv"], key["use"], key["alg"]) == ("OKP", "Ed25519", "sig", "EdDSA")
    assert key["kid"] == key_id(signing_key_of(app))


def test_a_key_is_named_by_its_thumbprint() -> None:
    """The example of RFC 8037, appendices A.1 to A.3."""
    private = base64.urlsafe_b64decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=")
    (key,) = SigningKeys([Ed25519PrivateKey.from_private_bytes(private)]).published.keys
    assert key.x == "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    assert key.kid == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


async def test_a_key_is_replaced_without_signing_anybody_out(databases: Databases, start_nats: StartNats) -> None:
    old, new = new_signing_key(), new_signing_key()
    settings = await settings_for(databases, start_nats, SERVICE, signing_key=old)

    @contextmanager
    def signed_with(client: httpx.AsyncClient, pem: str) -> Iterator[None]:
        yield
        assert jwt.get_unverified_header(client.cookies["session"])["kid"] == key_id(pem)

    async def is_signed_in(client: httpx.AsyncClient) -> bool:
        return (await client.get("/api/users/currentuser")).json()["currentUser"] is not None

    async with app_of([SERVICE], settings) as app, app.client() as client:
        with signed_with(client, old):
            await sign_up(client, "alice@example.com")
        tokens = [client.cookies["session"]]
    for keys, signing in ((old + new, old), (new + old, new)):
        async with app_of([SERVICE], with_settings(settings, signing_key=keys)) as app, app.client() as client:
            set_token(client, tokens[0])
            assert await is_signed_in(client)
            published = [key["kid"] for key in (await client.get("/api/users/jwks")).json()["keys"]]
            assert sorted(published) == sorted([key_id(old), key_id(new)])
            client.cookies.clear()
            with signed_with(client, signing):
                await sign_in(client, "alice@example.com")
            tokens.append(client.cookies["session"])
    async with app_of([SERVICE], with_settings(settings, signing_key=new)) as app:
        for token, is_good in zip(tokens, (False, False, True), strict=True):
            async with app.client() as client:
                set_token(client, token)
                assert await is_signed_in(client) is is_good


def rsa_key() -> str:
    key = generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def encrypted_key() -> str:
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")).decode()


BAD_KEYS: dict[str, Callable[[], str]] = {
    "nothing": lambda: "",
    "blanks": lambda: " \n",
    "no PEM": lambda: "secret",
    "an RSA key": rsa_key,
    "an encrypted key": encrypted_key,
    "a public key": lambda: public_pem(Forger(new_signing_key())).decode(),
    "a key cut short": lambda: new_signing_key()[:60] + "\n-----END PRIVATE KEY-----\n",
    "a good key and an RSA key": lambda: new_signing_key() + rsa_key(),
}


@pytest.mark.parametrize("what", BAD_KEYS)
async def test_auth_does_not_start_with_a_bad_signing_key(
    databases: Databases, start_nats: StartNats, what: str
) -> None:
    pem = BAD_KEYS[what]()
    settings = await settings_for(databases, start_nats, SERVICE, signing_key=pem)
    with pytest.raises(SettingsError, match=r"\AADMITONE_SIGNING_KEY [^\n]+\Z") as refused:
        await app_of([SERVICE], settings).__aenter__()
    assert "secret" not in str(refused.value)

"""Forged tokens are refused, bad signing keys too, and a signing key can be rotated."""

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from admitone.auth.service import SERVICE
from admitone.auth.tokens import SigningKeys, new_signing_key
from admitone.kernel.runner import App
from admitone.kernel.settings import SettingsError
from tests.auth.support import Forger, base64url, cookie_of, key_id, public_octets, public_pem
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

BAD_TOKENS: dict[str, Callable[[Forger], str]] = {
    "tampered": Forger.tampered,
    "broken signature": Forger.with_broken_signature,
    "no signature": lambda forger: forger.sign().rpartition(".")[0] + ".",
    "expired": lambda forger: forger.sign(exp=forger.claims["iat"] - 1),
    "alg none": lambda forger: forger.encode("none", lambda _: b""),
    "alg NONE": lambda forger: forger.encode("NONE", lambda _: b""),
    "the public key's PEM as secret": lambda forger: forger.with_public_key_as_secret(public_pem(forger)),
    "the public key's octets as secret": lambda forger: forger.with_public_key_as_secret(public_octets(forger)),
    "another issuer": lambda forger: forger.sign(iss="elsewhere"),
    "another audience": lambda forger: forger.sign(aud="elsewhere"),
    "another type": lambda forger: forger.sign(headers={"typ": "JWT"}),
    "an unknown key": lambda forger: forger.sign(headers={"kid": "unknown"}),
    "no key": lambda forger: forger.sign(headers={"kid": None}),
    "another key under our id": lambda forger: forger.sign(pem=new_signing_key()),
    "another key of its own": lambda forger: Forger(new_signing_key()).sign(),
    "a key in its own header": lambda forger: Forger(new_signing_key()).sign(
        headers={"jwk": {"kty": "OKP"}, "jku": "https://evil.example/keys"}
    ),
    "no subject": lambda forger: forger.sign(sub=None),
    "no session": lambda forger: forger.sign(sid=None),
    "no e-mail": lambda forger: forger.sign(email=None),
    "no expiry": lambda forger: forger.sign(exp=None),
    "an expiry that is not a number": lambda forger: forger.sign(exp="tomorrow"),
    "a subject that is not an id": lambda forger: forger.sign(sub="1"),
    "a session that is not an id": lambda forger: forger.sign(sid="1"),
    "huge": lambda forger: forger.sign(email="e" * 100_000),
    "a claim that is an object": lambda forger: forger.sign(iss={"$ne": ""}),
    "empty": lambda _: "",
    "not a token": lambda _: "a.b.c",
    "dots": lambda _: "." * 2000,
    "not even ASCII": lambda _: "\u00ff\u00fe",
    "JSON that is not an object": lambda _: f"{base64url(b'[]')}.{base64url(b'[]')}.{base64url(b'')}",
    "nested JSON": lambda _: f"{base64url(b'[' * 1200)}.e30.e30",
}


@pytest.fixture
def forger(app: App) -> Forger:
    return Forger(signing_key_of(app))


async def test_g03_a_correct_token_is_accepted(visitor: httpx.AsyncClient, forger: Forger) -> None:
    set_token(visitor, forger.sign())
    response = await visitor.get("/api/users/currentuser")
    assert response.json() == {"currentUser": {"id": forger.claims["sub"], "email": "eve@example.com"}}


@pytest.mark.parametrize("what", BAD_TOKENS)
async def test_g03_a_bad_token_is_ignored(visitor: httpx.AsyncClient, forger: Forger, what: str) -> None:
    cookie = cookie_of(BAD_TOKENS[what](forger))
    response = await visitor.get("/api/users/currentuser", headers=cookie)
    assert (response.status_code, response.json()) == (200, {"currentUser": None})
    change = {"currentPassword": PASSWORD, "email": "eve@example.org"}
    response = await visitor.put("/api/users/currentuser", json=change, headers=cookie)
    assert (response.status_code, messages_of(response)) == (401, [("Not authorized", None)])
    assert (await visitor.post("/api/users/signout", headers=cookie)).status_code == 200


async def test_g03_bad_tokens_do_not_affect_a_good_session(
    alice: httpx.AsyncClient, visitor: httpx.AsyncClient, forger: Forger
) -> None:
    for make in BAD_TOKENS.values():
        await visitor.get("/api/users/currentuser", headers=cookie_of(make(forger)))
    assert (await alice.get("/api/users/currentuser")).json()["currentUser"]["email"] == "alice@example.com"


async def test_only_public_keys_are_published_and_may_be_cached_for_a_minute(
    app: App, visitor: httpx.AsyncClient
) -> None:
    response = await visitor.get("/api/users/jwks")
    assert response.status_code == 200
    assert response.headers["cache-control"] == "public, max-age=60"
    (key,) = response.json()["keys"]
    assert key.keys() == {"kty", "crv", "use", "alg", "kid", "x"}
    assert (key["kty"], key["crv"], key["use"], key["alg"]) == ("OKP", "Ed25519", "sig", "EdDSA")
    assert key["kid"] == key_id(signing_key_of(app))


def test_a_key_id_is_its_thumbprint() -> None:
    """The example of RFC 8037, appendices A.1 to A.3."""
    private = base64.urlsafe_b64decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=")
    (key,) = SigningKeys([Ed25519PrivateKey.from_private_bytes(private)]).published.keys
    assert key.x == "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    assert key.kid == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


async def test_a_signing_key_is_rotated_without_ending_sessions(databases: Databases, start_nats: StartNats) -> None:
    old, new = new_signing_key(), new_signing_key()
    settings = await settings_for(databases, start_nats, SERVICE, signing_key=old)

    @contextmanager
    def is_signed_with(client: httpx.AsyncClient, pem: str) -> Iterator[None]:
        yield
        assert jwt.get_unverified_header(client.cookies["session"])["kid"] == key_id(pem)

    async def is_signed_in(client: httpx.AsyncClient) -> bool:
        return (await client.get("/api/users/currentuser")).json()["currentUser"] is not None

    async with app_of([SERVICE], settings) as app, app.client() as client:
        with is_signed_with(client, old):
            await sign_up(client, "alice@example.com")
        tokens = [client.cookies["session"]]
    for keys, signing in ((old + new, old), (new + old, new)):
        async with app_of([SERVICE], with_settings(settings, signing_key=keys)) as app, app.client() as client:
            set_token(client, tokens[0])
            assert await is_signed_in(client)
            published = [key["kid"] for key in (await client.get("/api/users/jwks")).json()["keys"]]
            assert sorted(published) == sorted([key_id(old), key_id(new)])
            client.cookies.clear()
            with is_signed_with(client, signing):
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

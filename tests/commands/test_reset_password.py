"""`admitone reset-password` lists accounts whose password is lost, and gives one a new password."""

import httpx

from admitone.auth.model import LOST_HASH
from admitone.kernel.settings import Settings
from tests.commands.conftest import change
from tests.engines import wait_until
from tests.whole import Up


async def test_an_account_whose_password_is_lost_gets_a_new_one(up: Up, settings: Settings) -> None:
    with up.person("lena") as lena:
        email = lena.get("/api/users/currentuser").json()["currentUser"]["email"]
        assert email not in up.run("reset-password").stdout
        await change(settings, "auth", f"UPDATE account SET password_hash = '{LOST_HASH}' WHERE email = '{email}'")
        assert email in up.run("reset-password").stdout.splitlines()

        done = up.run("reset-password", email.upper())

        assert done.returncode == 0, done.stderr
        password = done.stdout.split()[-1]
        assert email not in up.run("reset-password").stdout
        wait_until(lambda: lena.get("/api/users/currentuser").json() == {"currentUser": None}, "the session is refused")
        assert sign_in(up, email, password).status_code == 200
    assert up.run("check").returncode == 0


def test_an_address_without_an_account_is_named(up: Up) -> None:
    refused = up.run("reset-password", "nobody@example.com")
    assert (refused.returncode, "no account with the address nobody@example.com" in refused.stderr) == (1, True)
    assert up.run("reset-password", "nobody").returncode == 2


def sign_in(up: Up, email: str, password: str) -> httpx.Response:
    return httpx.post(f"{up.url}/api/users/signin", json={"email": email, "password": password})

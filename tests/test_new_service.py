"""A new service is a folder and one line in the registry: everything else takes it without another edit."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import nats
import pytest
import yaml

from admitone.kernel.settings import Settings
from admitone.local.installation import running_settings
from tests.engines import short_folder, wait_until
from tests.whole import ROOT, Up, running_up

# Reminds buyers of orders that were cancelled.
FILES = {
    "__init__.py": '"""reminders: reminds buyers of cancelled orders."""\n',
    "service.py": '''\
"""reminders: reminds buyers of cancelled orders."""

from typing import Final

from admitone import events
from admitone.kernel.service import Gauge, Service
from admitone.reminders import api, handlers, jobs, store
from admitone.reminders.resources import ReminderSettings

SERVICE: Final = Service(
    name="reminders",
    operations=(api.count_reminders,),
    subscriptions={events.OrderCancelled: handlers.order_cancelled},
    jobs=(jobs.send_reminders,),
    settings=(ReminderSettings,),
    gauges=(Gauge("admitone_reminders_unsent", "Reminders not sent yet", store.count_unsent),),
)
''',
    "resources.py": '''\
"""What reminders is configured with."""

from typing import Annotated

import msgspec

from admitone.kernel.settings import Variable


class ReminderSettings(msgspec.Struct, frozen=True):
    """`key` would authenticate us at a provider of text messages."""

    text: Annotated[str, Variable("ADMITONE_REMINDERS_TEXT")] = "Your order was cancelled"
    key: Annotated[str, Variable("ADMITONE_REMINDERS_KEY", is_secret=True)] = ""
''',
    "api.py": '''\
"""The use cases of reminders."""

import msgspec

from admitone.kernel.http.operations import OK, Request, Response, operation
from admitone.reminders import store
from admitone.reminders.resources import ReminderSettings


class RemindersView(msgspec.Struct):
    sent: int
    text: str


@operation("GET", "/api/reminders", returns=RemindersView)
async def count_reminders(request: Request[None, None]) -> Response:
    """Count the reminders that were sent."""
    text = request.service.settings.read(ReminderSettings).text
    return Response(OK, RemindersView(await store.count_sent(request.db), text))
''',
    "handlers.py": '''\
"""The events that reminders consumes."""

from admitone.events import OrderCancelled
from admitone.kernel.database.pool import Transaction
from admitone.reminders import store


async def order_cancelled(tx: Transaction, event: OrderCancelled) -> None:
    await store.add_reminder(tx, event.id)
''',
    "jobs.py": '''\
"""The background job of reminders."""

import asyncio
from typing import Any

from admitone.kernel.running import RunningService
from admitone.reminders import store


async def send_reminders(service: RunningService[Any]) -> None:
    while True:
        await store.mark_sent(service.database)
        await asyncio.sleep(0.1)
''',
    "store.py": '''\
"""The statements of reminders."""

from uuid import UUID

from admitone.kernel.database.pool import Database, Transaction


async def add_reminder(tx: Transaction, order_id: UUID) -> None:
    await tx.execute("INSERT INTO reminder (order_id) VALUES ($1)", order_id)


async def mark_sent(db: Database) -> None:
    await db.execute("UPDATE reminder SET sent_at = instant() WHERE sent_at IS NULL")


async def count_sent(db: Database) -> int:
    return int(await db.fetchval("SELECT count(*) FROM reminder WHERE sent_at IS NOT NULL"))


async def count_unsent(db: Database) -> float:
    return float(await db.fetchval("SELECT count(*) FROM reminder WHERE sent_at IS NULL"))
''',
    "migrations/0001_reminder.sql": """\
-- A cancelled order, and when its buyer was reminded.
CREATE TABLE reminder (
    order_id uuid        PRIMARY KEY,
    sent_at  timestamptz
);
""",
}
SECRET = "a-key-of-reminders"


@pytest.fixture(scope="module")
def project() -> Iterator[Path]:
    """A copy of the project with the new service."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    with short_folder() as folder:
        for name in names:
            if name and (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        for name, text in FILES.items():
            file = folder / "src" / "admitone" / "reminders" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        registry = folder / "src" / "admitone" / "registry.py"
        line = '    "web",\n'
        assert line in registry.read_text()
        registry.write_text(registry.read_text().replace(line, f'{line}    "reminders",\n'))
        run(folder, sys.executable, "-m", "deploy.render")
        yield folder


def run(project: Path, *command: str, fails: bool = False) -> str:
    """Run a command on the copy of the project; return what it prints."""
    done = subprocess.run(
        command, cwd=project, env=environment_of(project), capture_output=True, text=True, check=False, timeout=600
    )
    assert bool(done.returncode) == fails, done.stdout + done.stderr
    return done.stdout


def environment_of(project: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": f"{project / 'src'}:{project}", "PYTHONDONTWRITEBYTECODE": "1"}


def program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def test_the_contracts_of_imports_cover_it(project: Path) -> None:
    run(project, program("lint-imports"), "--no-logo", "--no-cache")
    handlers = project / "src" / "admitone" / "reminders" / "handlers.py"
    handlers.write_text(FILES["handlers.py"] + "\nfrom admitone.orders import store as orders\n")
    output = run(project, program("lint-imports"), "--no-logo", "--no-cache", fails=True)
    handlers.write_text(FILES["handlers.py"])
    assert "admitone.reminders is not allowed to import admitone.orders" in output


@pytest.mark.proof
@pytest.mark.timeout(300)
def test_its_types_are_checked(project: Path) -> None:
    run(project, program("mypy"), "--cache-dir=/dev/null", "--follow-imports=silent", "src/admitone/reminders")


def test_commands_list_it(project: Path) -> None:
    for command in ("serve", "migrate"):
        assert "reminders" in run(project, sys.executable, "-m", "admitone", command, "--help")
    assert "consumed by   tickets, expiration, payments, reminders, web" in run(
        project, sys.executable, "-m", "admitone", "events"
    )


def test_rendered_files_contain_it(project: Path) -> None:
    for overlay in ("development", "production"):
        objects = list(yaml.safe_load_all((project / f"deploy/kubernetes/rendered/{overlay}.yaml").read_text()))
        names = {(each["kind"], each["metadata"]["name"]) for each in objects}
        assert {("Deployment", "reminders"), ("Job", "migrate-reminders"), ("NetworkPolicy", "reminders")} <= names
    compose = yaml.safe_load((project / "compose.yaml").read_text())
    assert compose["services"]["reminders"]["command"] == ["serve", "reminders"]
    assert "~^/api/reminders(/|$) reminders;" in (project / "deploy/compose/nginx.conf").read_text()
    assert "user: reminders" in (project / "deploy/nats/users.conf").read_text()
    assert "admitone_reminders_unsent" in (project / "deploy/monitoring/dashboard.json").read_text()


def run_tests(project: Path, *files: str) -> None:
    run(project, sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", "not proof", *files)


@pytest.mark.proof
@pytest.mark.full
@pytest.mark.timeout(300)
def test_the_tests_of_deployments_accept_it(project: Path) -> None:
    run_tests(project, "tests/deploy", "tests/local/test_environment.py", "tests/local/test_routing.py")


@pytest.mark.proof
@pytest.mark.full
@pytest.mark.timeout(600)
def test_the_tests_of_privileges_and_help_accept_it(project: Path) -> None:
    run_tests(project, "tests/privileges", "tests/commands/test_help.py")


@pytest.fixture(
    scope="module", params=["together", pytest.param("processes", marks=[pytest.mark.proof, pytest.mark.full])]
)
def up(project: Path, request: pytest.FixtureRequest) -> Iterator[Up]:
    arguments = ["--processes"] if request.param == "processes" else []
    environment = {"PYTHONPATH": str(project / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    settings = {"ADMITONE_REMINDERS_TEXT": "Still interested?", "ADMITONE_REMINDERS_KEY": SECRET}
    with short_folder() as folder, running_up(folder / "data", *arguments, port=None, **environment, **settings) as up:
        yield up


@pytest.fixture
def settings(up: Up) -> Settings:
    found = running_settings(up.folder)
    assert found is not None
    return found


def reminders(up: Up) -> dict[str, Any]:
    return dict(httpx.get(f"{up.url}/api/reminders").raise_for_status().json())


def remind_bob(up: Up) -> None:
    """Let bob order a ticket and cancel the order, and wait until he is reminded of it."""
    before = reminders(up)["sent"]
    with up.person("alice") as alice, up.person("bob") as bob:
        ticket = alice.post("/api/tickets", json={"title": "Fado night", "price": 19.99}).json()["id"]
        wait_until(lambda: bob.post("/api/orders", json={"ticketId": ticket}).status_code == 201, "bob orders")
        order = bob.get("/api/orders").json()["orders"][0]["id"]
        assert bob.delete(f"/api/orders/{order}").status_code == 204
    wait_until(lambda: reminders(up)["sent"] == before + 1, "bob is reminded")


def test_it_consumes_events_runs_its_job_and_serves_its_api(up: Up) -> None:
    remind_bob(up)
    assert reminders(up)["text"] == "Still interested?"


async def test_it_reads_and_writes_only_its_own_rows(settings: Settings) -> None:
    connection = await asyncpg.connect(settings.database_urls["reminders"])
    try:
        await connection.execute("UPDATE reminder SET sent_at = sent_at")
        for statement in ("CREATE TABLE another (id int)", "DROP TABLE reminder", "SET ROLE reminders_migrator"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await asyncpg.connect(f"{settings.database_urls['reminders'].rpartition('/')[0]}/orders")


async def test_it_can_consume_what_it_subscribes_to_and_publish_nothing(up: Up, settings: Settings) -> None:
    await asyncio.to_thread(remind_bob, up)  # with its first event, the stream of orders exists
    denied: asyncio.Queue[Exception] = asyncio.Queue()
    client = await nats.connect(settings.nats_urls["reminders"], error_cb=denied.put, inbox_prefix=b"_INBOX_reminders")
    try:
        consumer = await client.jetstream().consumer_info("orders", "reminders")
        assert consumer.config.filter_subjects == ["events.orders.OrderCancelled"]
        for subject in ("events.orders.OrderCancelled", "events.reminders.Sent", "$JS.API.STREAM.DELETE.orders"):
            await client.publish(subject, b"{}")
            error = await asyncio.wait_for(denied.get(), timeout=10)
            assert "permissions violation" in str(error).lower()
    finally:
        await client.close()


def test_only_its_own_process_gets_its_secret(up: Up) -> None:
    for pid_file in (up.folder / "sandbox.pid", *(up.folder / "processes").glob("*.pid")):
        environment = Path(f"/proc/{pid_file.read_text().strip()}/environ").read_text()
        assert (SECRET in environment) == (pid_file.stem == "reminders"), pid_file.stem

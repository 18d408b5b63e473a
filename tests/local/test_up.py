"""`admitone up` starts, survives killed servers, stops, and reports what is wrong in one line."""

import os
import signal
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from admitone.kernel.http.server import bind_socket
from admitone.local.server import LOOPBACK, command_line, free_port, is_free
from tests.engines import wait_until
from tests.whole import SERVERS, Up, missing, run, running_up, start_up

LISTING = {"title": "Fado night, row 3", "price": 19.99}


@contextmanager
def seller_who_never_stops(up: Up) -> Iterator[list[str]]:
    """Alice lists tickets one after the other, through every interruption; yield the acknowledged ones."""
    listed: list[str] = []
    stop = threading.Event()

    def sell() -> None:
        with up.person("alice") as alice:
            while not stop.is_set():
                try:
                    answer = alice.post("/api/tickets", json=LISTING)
                except httpx.TransportError:
                    continue
                assert answer.status_code in {201, 503}, answer.text
                if answer.status_code == 201:
                    listed.append(answer.json()["id"])

    thread = threading.Thread(target=sell)
    thread.start()
    try:
        wait_until(lambda: len(listed) >= 20, "alice sells")
        yield listed
    finally:
        stop.set()
        thread.join()


def wait_until_more_are_listed(listed: list[str], seconds: float = 20) -> None:
    enough = len(listed) + 20
    wait_until(lambda: len(listed) >= enough, "alice sells again", seconds)


def is_ready(up: Up) -> bool:
    try:
        return httpx.get(f"{up.url}/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def can_be_bought(buyer: httpx.Client, ticket: str) -> bool:
    return buyer.post("/api/orders", json={"ticketId": ticket}).status_code == 201


def test_a_second_start_serves_what_the_first_has_stored_and_a_stop_ends_every_process(folder: Path) -> None:
    with running_up(folder / "data") as first:
        pids = first.pids()
        with first.person("alice") as alice:
            ticket = alice.post("/api/tickets", json=LISTING).json()["id"]
        assert first.stop() == 0
    assert not any(map(command_line, pids)), "every child has ended"
    assert is_free(first.port)
    with running_up(folder / "data") as again:
        assert missing(again, "/api/tickets", [ticket]) == []


@pytest.mark.parametrize(("options", "offset"), [((), 0), (("--processes",), 0), (("--processes",), -3)])
def test_metrics_do_not_take_the_port_of_the_pages(options: tuple[str, ...], offset: int, folder: Path) -> None:
    port = free_port()
    ports = {"ADMITONE_PORT": str(port), "ADMITONE_METRICS_PORT": str(port + offset)}
    refused = run("up", *options, ADMITONE_DATA=str(folder / "data"), **ports)
    assert refused.returncode == 2
    assert f"Port {port} cannot be for metrics and for pages" in refused.stderr


@pytest.mark.parametrize(("options", "offset"), [((), 0), (("--processes",), 2)])
def test_a_taken_metrics_port_is_reported_before_anything_starts(
    options: tuple[str, ...], offset: int, folder: Path
) -> None:
    with bind_socket(LOOPBACK, free_port()) as other:
        other.listen()
        taken = other.getsockname()[1]
        environment = {"ADMITONE_DATA": str(folder / "data"), "ADMITONE_METRICS_PORT": str(taken - offset)}
        refused = run("up", *options, ADMITONE_PORT=str(free_port()), **environment)
    assert refused.returncode == 2
    assert f"Port {taken} is taken by another program; ADMITONE_METRICS_PORT chooses another" in refused.stderr
    assert not (folder / "data").exists()


def test_each_step_is_printed_with_its_duration_and_then_one_address(folder: Path) -> None:
    with running_up(folder / "data") as up:
        for step in ("PostgreSQL", "NATS", "databases", "migrations", "payment sandbox"):
            line = next(line for line in up.output.splitlines() if step in line)
            assert line.endswith(" s")
        assert up.output.count("http://") == 1
        assert f"http://127.0.0.1:{up.port}" in up.output
        assert not any(line.startswith("{") for line in up.output.splitlines()), "logs go to a file"
        assert (up.folder / "admitone.log").exists()


@pytest.mark.parametrize("name", ["café", "售票处", "it's 100% {mine}; $HOME \\"])
def test_a_data_folder_may_have_any_name(name: str, folder: Path) -> None:
    for _ in range(2):
        with running_up(folder / name) as up, up.person("alice") as alice:
            assert alice.post("/api/tickets", json=LISTING).status_code == 201
            assert up.run("check").returncode == 0


def test_secrets_are_readable_only_by_their_owner(folder: Path) -> None:
    with running_up(folder / "data") as up:
        secret = [up.folder / "running.json", *(up.folder / "secrets").iterdir()]
        assert {stat.S_IMODE(file.stat().st_mode) for file in secret} == {0o600}
        assert "PRIVATE KEY" not in (up.folder / "running.json").read_text()
        assert up.stop() == 0
    assert not (up.folder / "running.json").exists()


def test_ctrl_c_during_the_start_stops_every_server(folder: Path) -> None:
    with start_up(folder / "data") as program:
        wait_until((folder / "data" / "nats.pid").exists, "NATS is started", 30)
        program.send_signal(signal.SIGINT)
        output, _ = program.communicate(timeout=30)
    assert program.returncode == 0, output
    assert "Traceback" not in output
    wait_until(lambda: not any(folder.glob("data/*.pid")), "every server is stopped")


def test_requests_in_progress_are_answered_before_everything_stops(folder: Path) -> None:
    with running_up(folder / "data") as up, seller_who_never_stops(up) as listed:
        assert up.stop(signal.SIGTERM) == 0
    with running_up(folder / "data") as again:
        assert missing(again, "/api/tickets", listed) == []


def test_s02_nothing_acknowledged_is_lost_when_the_parent_is_killed(folder: Path) -> None:
    with running_up(folder / "data") as up, seller_who_never_stops(up) as listed:
        up.kill()
    with running_up(folder / "data") as again:
        assert missing(again, "/api/tickets", listed) == []
        with again.person("bob") as bob:
            # The event of the last ticket was not lost with the process.
            wait_until(lambda: can_be_bought(bob, listed[-1]), "the last ticket reaches orders")


@pytest.mark.parametrize("server", SERVERS)
def test_a_killed_server_is_restarted_and_nothing_acknowledged_is_lost(server: str, folder: Path) -> None:
    with running_up(folder / "data") as up:
        with seller_who_never_stops(up) as listed:
            up.kill_server(server)
            wait_until_more_are_listed(listed)
        wait_until(lambda: is_ready(up), "ready again")
        assert missing(up, "/api/tickets", listed) == []
        with up.person("bob") as bob:
            wait_until(lambda: can_be_bought(bob, listed[0]), "the first ticket reaches orders")
            wait_until(lambda: can_be_bought(bob, listed[-1]), "the last ticket reaches orders")


def test_nothing_acknowledged_is_lost_when_everything_is_killed_at_once(folder: Path) -> None:
    with running_up(folder / "data") as up, seller_who_never_stops(up) as listed:
        pids = [up.program.pid, *up.pids()]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        up.program.wait()
        wait_until(lambda: not any(map(command_line, pids)), "all are dead")
    with running_up(folder / "data") as again:
        assert missing(again, "/api/tickets", listed) == []


def is_one_line(output: str) -> bool:
    return output.startswith("Error: ") and len(output.strip().splitlines()) == 1


def test_a_second_one_on_the_same_folder_is_refused_in_one_line(folder: Path) -> None:
    with running_up(folder / "data") as up:
        refused = run("up", ADMITONE_DATA=str(up.folder), ADMITONE_PORT=str(up.port))
        assert refused.returncode == 2
        assert is_one_line(refused.stderr)
        assert f"in use by process {up.program.pid}" in refused.stderr
        assert is_ready(up)


def test_a_taken_port_is_reported_in_one_line_before_anything_starts(folder: Path) -> None:
    with socket.create_server((LOOPBACK, free_port())) as other:
        port = other.getsockname()[1]
        refused = run("up", "--port", str(port), ADMITONE_DATA=str(folder / "data"))
    assert refused.returncode == 2
    assert is_one_line(refused.stderr)
    assert f"Port {port} is taken" in refused.stderr
    assert not (folder / "data" / "postgres").exists()


def test_a_folder_that_cannot_be_written_is_reported_in_one_line(folder: Path) -> None:
    (folder / "file").touch()
    refused = run("up", ADMITONE_DATA=str(folder / "file" / "data"))
    assert refused.returncode == 2
    assert is_one_line(refused.stderr)
    assert "cannot be used: Not a directory" in refused.stderr


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("ADMITONE_PORT", "many", "ADMITONE_PORT must be a whole number"),
        ("ADMITONE_PORT", "70000", "ADMITONE_PORT must be between 1 and 65535"),
        ("ADMITONE_CURRENCY", "jpy", "ADMITONE_CURRENCY must be one of"),
        ("ADMITONE_SIGNING_KEY_FILE", "/nowhere", "ADMITONE_SIGNING_KEY_FILE cannot be read"),
        ("ADMITONE_HOST", "0.0.0.0", "people on other machines can reach 0.0.0.0"),  # noqa: S104
        ("ADMITONE_ORIGIN", "https://tickets.example", "people on other machines can reach tickets.example"),
        ("ADMITONE_ORDERS_WINDOW", "60", "did you mean ADMITONE_ORDER_WINDOW_SECONDS?"),
    ],
)
def test_a_bad_setting_is_reported_in_one_line(name: str, value: str, reason: str, folder: Path) -> None:
    refused = run("up", **{"ADMITONE_DATA": str(folder / "data"), name: value})
    assert refused.returncode == 2
    assert is_one_line(refused.stderr)
    assert reason in refused.stderr
    assert not (folder / "data" / "postgres").exists()


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid"])
def test_an_address_of_another_machine_is_reported_in_one_line(host: str, folder: Path) -> None:
    data = str(folder / "data")
    refused = run("up", ADMITONE_DATA=data, ADMITONE_HOST=host, ADMITONE_ALLOW_TEST_PAYMENTS="1")
    assert refused.returncode == 2
    assert is_one_line(refused.stderr)
    assert f"Nothing can listen at {host}" in refused.stderr

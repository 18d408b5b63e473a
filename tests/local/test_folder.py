"""The data folder has one owner at a time and keeps its secrets."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from admitone.local.errors import FolderInUse, FolderNotUsable
from admitone.local.folder import open_data_folder
from tests.local.conftest import Parent


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_folder_is_accessible_only_to_its_owner(folder: Path) -> None:
    with open_data_folder(folder / "new" / "data"):
        assert mode(folder / "new" / "data") == 0o700


def test_a_secret_is_generated_once_and_readable_only_by_its_owner(folder: Path) -> None:
    with open_data_folder(folder) as data:
        first = data.secret("orders")
        assert len(first) >= 43
        assert data.secret("payments") != first
    with open_data_folder(folder) as data:
        assert data.secret("orders") == first
        assert mode(folder / "secrets") == 0o700
        assert {mode(file) for file in (folder / "secrets").iterdir()} == {0o600}


def test_a_crash_while_a_secret_is_written_leaves_no_part_of_it(folder: Path) -> None:
    with open_data_folder(folder) as data:
        (folder / "secrets").mkdir()
        (folder / "secrets" / "orders.new").write_text("half a sec")
        assert data.secret("orders", generate=lambda: "the whole secret") == "the whole secret"
        assert [file.name for file in (folder / "secrets").iterdir()] == ["orders"]


def test_a_second_owner_is_refused_with_the_process_id_of_the_first(folder: Path) -> None:
    with open_data_folder(folder), pytest.raises(FolderInUse) as refused, open_data_folder(folder):
        pass
    assert str(folder) in str(refused.value)
    assert f"process {os.getpid()}" in str(refused.value)


def test_a_second_program_on_the_folder_exits_with_a_clear_message(start_parent: Callable[..., Parent]) -> None:
    first = start_parent("nats")
    with pytest.raises(AssertionError, match=f"in use by process {first.program.pid}"):
        start_parent("nats")


def test_the_folder_is_unlocked_when_its_owner_is_killed(folder: Path, start_parent: Callable[..., Parent]) -> None:
    start_parent("nats").kill()
    with open_data_folder(folder / "installation"):
        pass


def test_a_folder_that_cannot_be_created_is_refused_with_the_reason(folder: Path) -> None:
    (folder / "file").touch()
    with pytest.raises(FolderNotUsable, match="Not a directory"), open_data_folder(folder / "file" / "data"):
        pass

"""The data folder: one owner at a time, secrets that stay."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from admitone.local.errors import FolderInUse, FolderNotUsable
from admitone.local.folder import opened
from tests.local.conftest import Parent


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_folder_is_made_for_its_owner_only(folder: Path) -> None:
    with opened(folder / "new" / "data"):
        assert mode(folder / "new" / "data") == 0o700


def test_a_secret_is_made_once_and_readable_by_its_owner_only(folder: Path) -> None:
    with opened(folder) as data:
        first = data.secret("orders")
        assert len(first) >= 43
        assert data.secret("payments") != first
    with opened(folder) as data:
        assert data.secret("orders") == first
        assert mode(folder / "secrets") == 0o700
        assert {mode(file) for file in (folder / "secrets").iterdir()} == {0o600}


def test_a_crash_while_a_secret_was_written_leaves_no_half_of_it(folder: Path) -> None:
    with opened(folder) as data:
        (folder / "secrets").mkdir()
        (folder / "secrets" / "orders.new").write_text("half a sec")
        assert data.secret("orders", make=lambda: "the whole secret") == "the whole secret"
        assert [file.name for file in (folder / "secrets").iterdir()] == ["orders"]


def test_a_second_owner_is_told_who_has_the_folder(folder: Path) -> None:
    with opened(folder), pytest.raises(FolderInUse) as refused, opened(folder):
        pass
    assert str(folder) in str(refused.value)
    assert f"process {os.getpid()}" in str(refused.value)


def test_a_second_program_on_the_folder_ends_with_one_clear_line(start_parent: Callable[..., Parent]) -> None:
    first = start_parent("nats")
    with pytest.raises(AssertionError, match=f"in use by process {first.program.pid}"):
        start_parent("nats")


def test_the_folder_is_free_again_when_its_owner_is_killed(folder: Path, start_parent: Callable[..., Parent]) -> None:
    start_parent("nats").kill()
    with opened(folder / "installation"):
        pass


def test_a_folder_that_cannot_be_made_is_refused_with_the_reason(folder: Path) -> None:
    (folder / "file").touch()
    with pytest.raises(FolderNotUsable, match="Not a directory"), opened(folder / "file" / "data"):
        pass

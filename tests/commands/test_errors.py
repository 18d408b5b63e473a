"""How commands end when something outside is wrong."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.whole import ROOT


@pytest.mark.parametrize(
    "arguments", [("events",), ("events", "OrderCreated"), ("--help",), ("dead-letters", "--help")]
)
def test_a_command_whose_output_is_not_read_ends_quietly(arguments: tuple[str, ...], folder: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as unread:
        ended = subprocess.run(
            [sys.executable, "-m", "admitone", *arguments],
            stdout=unread,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            cwd=ROOT,
            env={"ADMITONE_DATA": str(folder)},
            timeout=60,
        )
    assert ended.stderr == ""
    assert ended.returncode == 128 + signal.SIGPIPE

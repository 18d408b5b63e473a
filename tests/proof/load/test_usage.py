"""What processes use, as Linux counts it."""

import os
import subprocess
import sys

from proof.load.usage import Usage, usage_by_program


def test_a_process_uses_memory_time_and_descriptors() -> None:
    used = Usage.of(os.getpid())
    assert used.memory_mb > 1
    assert used.cpu_seconds > 0
    assert used.descriptors >= 3


def test_usages_are_added() -> None:
    assert Usage(1.0, 2.0, 3) + Usage(4.0, 5.0, 6) == Usage(5.0, 7.0, 9)


def test_a_child_is_found_by_its_command_line() -> None:
    program = "print('ready', flush=True); input()"
    command = [sys.executable, "-c", program, "a child"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()  # before, Linux may show no command line
    try:
        used = usage_by_program(os.getpid())
    finally:
        child.communicate()
    assert "admitone" in used
    assert any("a child" in name for name in used)

"""How a command fails: with one line on standard error, and an exit code that scripts can rely on.

0 success · 1 it ran, and the result is negative · 2 it could not run: a setting, a port, a folder or a server is wrong
141 the reader of its output has gone
"""

import functools
import os
import signal
import sys
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

import click

from admitone.kernel.addresses import reason_of
from admitone.kernel.database.pool import UNREACHABLE, DatabaseUnreachable
from admitone.kernel.errors import Unavailable
from admitone.kernel.http.server import CannotListen
from admitone.kernel.messaging.recovery import DatabaseBehind
from admitone.kernel.runner import MigrationsMissing
from admitone.kernel.settings import SettingsError
from admitone.local.errors import LocalError

P = ParamSpec("P")
R = TypeVar("R")

# What shells report for a program that SIGPIPE ended. Python ignores that signal, because it would also end a program
# whose connection to a server broke.
_UNREAD: Final = 128 + signal.SIGPIPE


class CannotRun(click.ClickException):
    """Something that the command needs is missing or wrong"""

    exit_code = 2


def report_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Report errors that an operator can correct as one line with exit code 2. A bug keeps its traceback."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (
            SettingsError,
            DatabaseUnreachable,
            LocalError,
            MigrationsMissing,
            DatabaseBehind,
            CannotListen,
        ) as error:
            raise CannotRun(str(error)) from error
        except BrokenPipeError:
            raise  # the output is not read any more: `quiet_when_unread`
        except (Unavailable, *UNREACHABLE) as error:
            raise CannotRun(f"A database does not respond any more: {reason_of(error)}. Try again.") from error
        except OSError as error:
            raise CannotRun(str(error)) from error

    return run


def quiet_when_unread(run: Callable[P, R]) -> Callable[P, R]:
    """End the program without a message when the reader of its output, such as `head`, has gone.

    Only the output raises BrokenPipeError here: the clients of databases, of the bus and of HTTP have their own errors.
    """

    @functools.wraps(run)
    def quiet(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return run(*args, **kwargs)
        except BrokenPipeError:
            # Python writes at its end what is still buffered, and would report that this fails.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(_UNREAD) from None

    return quiet

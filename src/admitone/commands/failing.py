"""How a command fails: one clear line on standard error, and an exit code that scripts can trust.

0 it worked · 1 it ran, and the answer is bad news · 2 it could not run: a setting, a port, a folder, a server.
"""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import click

from admitone.kernel.database.pool import UNREACHABLE
from admitone.kernel.errors import Unavailable
from admitone.kernel.http.server import CannotListen
from admitone.kernel.runner import MigrationsMissing
from admitone.kernel.settings import SettingsError
from admitone.local.errors import LocalError

P = ParamSpec("P")
R = TypeVar("R")


class CannotRun(click.ClickException):
    """Something the command needs is missing or wrong"""

    exit_code = 2


def told_plainly(command: Callable[P, R]) -> Callable[P, R]:
    """Turn what an operator can put right into one line and exit code 2; a bug keeps its traceback."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (SettingsError, LocalError, MigrationsMissing, CannotListen) as error:
            raise CannotRun(str(error)) from error
        except (Unavailable, *UNREACHABLE) as error:
            raise CannotRun(f"The database cannot be reached: {str(error) or type(error).__name__}") from error
        except OSError as error:
            raise CannotRun(str(error)) from error

    return run

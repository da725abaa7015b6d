"""How a command ends where something goes wrong: in one line and an exit code, whatever it is."""

import contextlib
import errno
import os
import select
import shlex
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, TextIO

import click

from pipeline import __version__
from pipeline.cli import logs
from pipeline.errors import (
    BUG,
    CLOSED,
    EXIT_CODES,
    KEPT,
    STOPPED,
    InstallationError,
    ModelError,
    SeizeError,
    StorageError,
    memory_problem,
)
from pipeline.masking import masked
from pipeline.printable import echo, printable

MACHINE = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE,
}  # fmt: skip
"""What the operating system refuses for a reason that is the machine's: full, read-only, broken."""


class Commands(click.Group):
    """Turns every error into one line and an exit code, whatever went wrong."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Read the arguments, which may already print the help."""
        try:
            return super().make_context(*args, **extra)
        except BrokenPipeError:
            _close_broken_pipes()
            sys.exit(CLOSED)

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except KeyboardInterrupt:
            echo(KEPT, err=True)
            logs.ended(KEPT)
            context.exit(STOPPED)
        except click.ClickException as error:
            # It repeats what was given, file names too. (The attribute is not meant to be final.)
            error.message = printable(masked(error.message))  # type: ignore[misc]
            logs.ended(error.message)
            raise
        except (click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            if isinstance(error, OSError) and _close_broken_pipes():
                context.exit(CLOSED)
            debug = bool(context.params.get("debug"))
            if debug:
                echo(masked(traceback.format_exc()), err=True)
            told = _own(error)
            if told is None:
                bug = _bug(error, debug)
                echo(f"Error: {bug}", err=True)
                logs.ended(bug)
                context.exit(BUG)
            echo(f"Error: {masked(str(told))}", err=True)
            logs.ended(str(told))
            context.exit(told.exit_code)


def _own(error: Exception) -> SeizeError | None:
    """Return ``error`` as one that a user can act on; None where it is this project's fault."""
    if isinstance(error, SeizeError):
        return error
    if isinstance(error, ImportError) and not (error.name or "").startswith("pipeline"):
        return InstallationError.of(error)
    if isinstance(error, OSError) and error.errno in MACHINE:
        where = f"{error.filename}: " if error.filename else ""
        return StorageError(
            f"{where}{error.strerror}. What was computed is kept; mend that, then run the same "
            "command again."
        )
    problem = memory_problem(error)
    return ModelError(problem) if problem else None


def _bug(error: Exception, shown: bool) -> str:
    """Return the line about an error that nobody expected; write its traceback unless ``shown``."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    said = masked(" ".join(str(error).split()))[:300]
    line = f"{type(error).__name__} at {Path(place.filename).name}, line {place.lineno}: {said}"
    where = "the traceback above" if shown else _log(error)
    return (
        f"{line}. This is an error of seize itself: please report it with {where}. What was "
        "computed is kept; `seize doctor` says whether something here is out of order."
    )


def _log(error: Exception) -> str:
    """Write the traceback into a file, and return where it is to be found."""
    try:
        handle, file = tempfile.mkstemp(prefix="seize-error-", suffix=".log")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(masked(f"seize {__version__}: {shlex.join(sys.argv[1:])}\n"))
            stream.write(masked("".join(traceback.format_exception(error))))
    except OSError:
        return "what `seize --debug` shows"
    return file


def _close_broken_pipes() -> bool:
    """Return whether nobody reads standard output or error any more, and stop writing there."""
    broken = [stream for stream in (sys.stdout, sys.stderr) if _is_broken(stream)]
    for stream in broken:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # or the interpreter's last flush would complain
        os.close(nowhere)
    return bool(broken)


def _is_broken(stream: TextIO) -> bool:
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
    except (AttributeError, OSError, ValueError):  # no poll on Windows; no file in tests
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def leave(code: int) -> None:
    """End this process at once, without waiting for threads that ask a server for minutes yet.

    Records are whole whenever a process ends, so nothing is lost but what is under way.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def exit_codes() -> str:
    """Return the help's paragraph on exit codes."""
    lines = [f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items()]
    return "\b\nExit codes:\n" + "\n".join(lines)

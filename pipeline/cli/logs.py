"""Where messages go: standard error, and a file where one is asked for."""

import logging
import sys
from pathlib import Path

import click

from pipeline import processes
from pipeline.cli.options import log
from pipeline.errors import StorageError
from pipeline.printable import Formatter

_ended = logging.getLogger("seize-ended")
"""Has the log file alone: how a command ends is printed without the help of ``logging``."""
_ended.propagate = False
_ended.addHandler(logging.NullHandler())


def set_up(quiet: bool, file: Path | None) -> None:
    """Send messages to standard error, and to the end of ``file`` with their times.

    Both get lines without secrets. Raises StorageError where ``file`` cannot be written.
    """
    place = processes.current()
    prefix = "" if place.main else f"[process {place.index}] "
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter(f"{prefix}%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    log.setLevel(logging.WARNING if quiet or not place.main else logging.INFO)
    if file is not None:
        _add(file, prefix)


def _add(file: Path, prefix: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(file, encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"Cannot write --log-file {file}: {error.strerror}. Choose another."
        ) from error
    handler.setFormatter(Formatter(f"%(asctime)s %(levelname)s {prefix}%(message)s"))
    for logger in (logging.getLogger(), _ended):
        logger.addHandler(handler)
        click.get_current_context().call_on_close(lambda it=logger: it.removeHandler(handler))
    click.get_current_context().call_on_close(handler.close)


def ended(text: str) -> None:
    """Write into the log file, where there is one, why a command ended."""
    _ended.error("%s", text)

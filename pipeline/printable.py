"""What is shown to people: text from elsewhere may hold no character that steers what shows it.

Captions, answers, image names and model names come from files and servers of others. A terminal
obeys control characters in them (colours, its title, its clipboard), and bidirectional overrides
make text read other than it is, in a browser too.
"""

import logging
import re
from typing import Any

import click
from rich.text import Text

from pipeline.masking import masked

STEERING = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f"  # C0 without tab and newline, and delete
    "\x80-\x9f"  # C1: some terminals take \x9b for an escape sequence's start
    "\u2028\u2029"  # line and paragraph separators
    "\u202a-\u202e\u2066-\u2069"  # bidirectional embeddings, overrides and isolates
    "\ud800-\udfff"  # halves of surrogate pairs, which UTF-8 cannot hold
    "]"
)

PATH = re.compile(r"((?:[a-z][a-z-]+:)?)(?:~[^/\\]*|\.{1,2}|[A-Za-z]:)?[/\\].*?([^/\\]*)[/\\]*")
"""A path on one line that says where on a machine something is; its groups are kind and name."""


def printable(text: str) -> str:
    r"""Return ``text`` with steering characters written out, as in ``\x1b``; newlines stay."""
    return STEERING.sub(lambda found: repr(found[0])[1:-1], text)


def one_line(text: str) -> str:
    """Return ``text`` printable, with newlines written out too: it cannot pass for other lines."""
    return printable(text.replace("\n", "\\n"))


def json_safe(text: str) -> str:
    r"""Return JSON whose strings hold no steering character: each is escaped as in ``\u009b``."""
    return STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def printable_all(content: Any) -> Any:
    """Return JSON-able data with every text in it, keys too, printable."""
    if isinstance(content, str):
        return printable(content)
    if isinstance(content, dict):
        return {printable_all(key): printable_all(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [printable_all(value) for value in content]
    return content


def without_folders(content: Any, folder_key: str = "source") -> Any:
    """Return JSON-able data whose texts that are paths have their last part alone.

    A path is absolute, begins with ``~`` or a dot, may follow a kind (``local-dir:``), or stands
    under ``folder_key``. Others (``a/b``) may be a model's name, and stay.
    """
    if isinstance(content, str):
        found = PATH.fullmatch(content)
        return found[1] + found[2] if found else content
    if isinstance(content, dict):
        return {
            key: _last_parts(value) if key == folder_key else without_folders(value, folder_key)
            for key, value in content.items()
        }
    if isinstance(content, list | tuple):
        return [without_folders(value, folder_key) for value in content]
    return content


def _last_parts(content: Any) -> Any:
    if isinstance(content, str):
        return re.split(r"[/\\]", content.rstrip("/\\"))[-1]
    if isinstance(content, list | tuple):
        return [_last_parts(value) for value in content]
    return without_folders(content)


def for_page(value: Any) -> Any:
    """Return what a template of a page puts out: text printable, all else as it is.

    Given to Jinja as ``finalize``, before it escapes markup.
    """
    return printable(value) if type(value) is str else value


def echo(text: str = "", err: bool = False) -> None:
    """Print ``text``, on standard error with ``err``."""
    click.echo(printable(text), err=err)


def cell(text: str) -> Text:
    """Return ``text`` for a table of rich, which would take square brackets for its markup."""
    return Text(one_line(text))


class Formatter(logging.Formatter):
    """Keeps every log record on one line, without secrets; a traceback after it has its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = one_line(masked(record.message))
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        return printable(masked(super().formatException(ei)))

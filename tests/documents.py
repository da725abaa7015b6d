"""What programs write into README and docs: tables that were measured, and every command's help.

A table stands between ``<!-- measured: NAME -->`` and ``<!-- end: NAME -->``; the benchmark of that
name writes it (``make bench ARGS="search --write"``). ``python -m tests.documents`` writes
``docs/help.md``; a test tells when it differs from what the commands say.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

PROJECT = Path(__file__).resolve().parent.parent
HELP = PROJECT / "docs" / "help.md"
WIDTH = 100
"""Columns that help is wrapped to."""


def pages() -> list[Path]:
    """Return the pages that can hold tables."""
    return [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]


def fill(name: str, text: str) -> Path:
    """Put ``text`` between the marks called ``name``; return the page that has them.

    Raises LookupError where no page, or more than one, has these marks once.
    """
    marks = f"<!-- measured: {name} -->", f"<!-- end: {name} -->"
    found = [page for page in pages() if marks[0] in page.read_text(encoding="utf-8")]
    if len(found) != 1:
        raise LookupError(f"{len(found)} pages have the mark {marks[0]}; it should be one.")
    (page,) = found
    before, _, rest = page.read_text(encoding="utf-8").partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not end or marks[0] in after:
        raise LookupError(f"{page} needs one {marks[1]} after {marks[0]}.")
    content = f"{before}{marks[0]}\n\n{text.strip()}\n\n{marks[1]}{after}"
    page.write_text(content, encoding="utf-8")
    return page


def help_page() -> str:
    """Return the text of ``docs/help.md``: what every command's ``--help`` prints."""
    from pipeline.cli import main

    parts = [
        "# Every command's help\n\nWritten by `python -m tests.documents`; a test holds it to the "
        "commands.\n"
    ]
    settings: dict[str, Any] = {"terminal_width": WIDTH, "max_content_width": WIDTH}
    # A command keeps the help option of its first context, so this one is made as a user's is.
    context = click.Context(main, info_name="seize", **settings | main.context_settings)
    for path, text in _helps(main, context):
        parts.append(f"## {path}\n\n```\n{text.rstrip()}\n```\n")
    return "\n".join(parts)


def _helps(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    text = command.get_help(context)
    yield context.command_path, "\n".join(line.rstrip() for line in text.splitlines())
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is None or child.hidden:
                continue
            own = click.Context(
                child,
                info_name=name,
                parent=context,
                terminal_width=WIDTH,
                max_content_width=WIDTH,
            )
            yield from _helps(child, own)


def links(text: str) -> list[str]:
    """Return the local files that a page's links and pictures name."""
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    return [target for target in targets if "://" not in target]


if __name__ == "__main__":
    HELP.write_text(help_page(), encoding="utf-8")

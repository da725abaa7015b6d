"""The commands on a cache: what is in it, and removing what is not current any more."""

import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.numbers import FiniteRange
from pipeline.cli.options import cache_option, json_option
from pipeline.errors import ConfigError, nearest
from pipeline.printable import echo, one_line

if TYPE_CHECKING:
    from pipeline.store.inventory import Entry

DAY = 86_400.0
UNITS = ("kB", "MB", "GB", "TB")

own_option = click.option(
    "--own", is_flag=True, help="the cache of your own folders of images, instead of --cache"
)
stage_option = click.option("--stage", help="of this stage alone, for instance search")
older_option = click.option(
    "--older-than",
    type=FiniteRange(min=0, max=100_000),
    metavar="DAYS",
    help="written at least so many days ago",
)


@click.group("cache")
def cache_group() -> None:
    """List what is in a cache, or remove what is not current any more."""


@cache_group.command("list")
@cache_option
@own_option
@stage_option
@older_option
@json_option
def cache_list(
    cache: Path, own: bool, stage: str | None, older_than: float | None, as_json: bool
) -> None:
    """Say what is in the cache, by dataset and stage: files, bytes, age, what made them.

    Example: seize cache list --stage search
    """
    found = _found(_place(cache, own), stage, older_than)
    if as_json:
        _print_json([_as_json(entry) for entry in found])
        return
    from tabulate import tabulate

    groups: dict[tuple[str, ...], list[Entry]] = {}
    for entry in found:
        made_by = entry.made_by or ("" if entry.is_output else entry.file.name)
        groups.setdefault((entry.folder, entry.stage, made_by), []).append(entry)
    rows = [
        {
            "folder": one_line(folder) or "(shared)",
            "stage": one_line(named),
            "made by": one_line(made_by),
            "files": sum(len(entry.paths) for entry in entries),
            "size": size(sum(entry.bytes for entry in entries)),
            "written": age(max(entry.modified for entry in entries)),
            "not current": sum(bool(entry.reason) for entry in entries) or "",
        }
        for (folder, named, made_by), entries in groups.items()
    ]
    if rows:
        echo(tabulate(rows, headers="keys", disable_numparse=True))
    files = sum(len(entry.paths) for entry in found)
    echo(f"{files:,} files, {size(sum(entry.bytes for entry in found))}")


@cache_group.command("clean")
@cache_option
@own_option
@stage_option
@older_option
@click.option(
    "--all", "everything", is_flag=True, help="what is current and what was imported, too"
)
@click.option("--yes", is_flag=True, help="remove it; without this it is only shown")
@json_option
def cache_clean(
    cache: Path,
    own: bool,
    stage: str | None,
    older_than: float | None,
    everything: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Show what is not current, and remove it with --yes.

    Not current are outputs that a newer one of the same method, models and prompt has taken the
    place of, if nothing current was made from them; what stopped processes left half written; and
    indexes of folders of images that are gone (connect their disks first). What another process
    holds is left, and so is what no stage wrote. What is missing is computed again; what was
    imported, which --all takes too, has to be imported again.

    Example: seize cache clean --older-than 30, and then again with --yes
    """
    from pipeline.store import inventory

    place = _place(cache, own)
    chosen = [
        entry
        for entry in _found(place, stage, older_than)
        if entry.reason or (everything and entry.is_output)
    ]
    held = []
    for entry in chosen:
        is_held = yes and not inventory.remove(entry, place)
        held += [entry] if is_held else []
        if not as_json:
            told = "in use, left" if is_held else "removed" if yes else "would be removed"
            why = entry.reason or "current"
            where = entry.file.relative_to(place.resolve())
            echo(one_line(f"{told}: {where} ({size(entry.bytes)}, {age(entry.modified)}): {why}"))
    done = [entry for entry in chosen if entry not in held]
    if as_json:
        gone = {"removed": yes, "held": [_as_json(entry) for entry in held]}
        _print_json(gone | {"entries": [_as_json(entry) for entry in done]})
        return
    total = size(sum(entry.bytes for entry in done))
    if yes:
        echo(f"Removed {len(done):,} outputs, {total}.")
    elif done:
        echo(f"{len(done):,} outputs, {total}. To remove them, give --yes too.")
    else:
        echo("Nothing to remove.")


def _place(cache: Path, own: bool) -> Path:
    if not own:
        return cache
    from pipeline.own import settings

    return settings.cache_folder(None)


def _found(cache: Path, stage: str | None, older_than: float | None) -> list["Entry"]:
    """Return the chosen entries; raises ConfigError for a stage that is not in the cache."""
    from pipeline.store import inventory

    listed = inventory.entries(cache)
    stages = {entry.stage for entry in listed if entry.is_output}
    if stage is not None and stage not in stages:
        raise ConfigError(f"There is no stage {stage!r} in {cache}.{nearest(stage, stages)}")
    before = time.time() - DAY * (older_than or 0)
    return [
        entry
        for entry in listed
        if stage in (None, entry.stage) and (older_than is None or entry.modified <= before)
    ]


def _as_json(entry: "Entry") -> dict[str, Any]:
    return {
        "file": str(entry.file),
        "folder": entry.folder,
        "stage": entry.stage,
        "files": len(entry.paths),
        "bytes": entry.bytes,
        "modified": datetime.fromtimestamp(entry.modified).astimezone().isoformat(),
        "made_by": entry.made_by,
        "current": not entry.reason,
        "reason": entry.reason or None,
    }


def _print_json(content: Iterable[Any]) -> None:
    from pipeline.run import dump

    echo(dump(content))


def size(count: float) -> str:
    """Return a number of bytes in words: ``1.5 MB``, in powers of a thousand."""
    if count < 1000:
        return f"{count:.0f} B"
    power = next(n for n in range(1, len(UNITS) + 1) if count < 999.5 * 1000**n or n == len(UNITS))
    amount = count / 1000**power
    return f"{amount:.{0 if amount >= 99.95 else 1}f} {UNITS[power - 1]}"


def age(modified: float) -> str:
    """Return how long ago a time was, in minutes, hours or days."""
    minutes = max(time.time() - modified, 0) / 60
    if minutes < 100:
        return f"{minutes:.0f} min ago"
    return f"{minutes / 60:.0f} h ago" if minutes < 48 * 60 else f"{minutes / 1440:.0f} days ago"


COMMANDS = (cache_group,)

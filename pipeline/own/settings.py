"""Where the settings of a folder of one's own images come from, and where its cache is.

The first that is there counts: what the command names, the variable SEIZE_CONFIG, ``seize.yaml`` in
the folder or beside it, what the folder was last indexed with, ``seize.yaml`` in the user's
configuration folder, the preset ``laptop``. A file that comes with the pictures may be somebody
else's, so it may not send them to another machine.
"""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline import config as configuration
from pipeline.config import Config
from pipeline.errors import InputError, SeizeError
from pipeline.run import log, slug
from pipeline.store.files import write_json
from pipeline.store.identity import fingerprint

FILE = "seize.yaml"
CONFIG_VARIABLE, CACHE_VARIABLE = "SEIZE_CONFIG", "SEIZE_CACHE"
DEFAULT = "laptop"
REMEMBERED = "settings.json"
"""The file of a folder's cache that says what it was indexed with."""
OF_THE_INDEX = "clip."
"""What the fields begin with that an index depends on."""


@dataclass(frozen=True)
class Source:
    """A preset's name or a file, with fields that count over it."""

    name: str
    told: str = ""
    """Where it was found, where the user did not name it."""
    overrides: dict[str, Any] = field(default_factory=dict)
    foreign: bool = False
    """Whether it came with the pictures."""


def cache_name(root: Path) -> str:
    """Return what the cache calls a folder: its name and a hash of its absolute path."""
    return f"folder-{slug(root.name) or 'root'}-{fingerprint(str(root))}"


def cache_folder(given: Path | None) -> Path:
    """Return the cache: the one given, that of SEIZE_CACHE, or the user's own.

    The user's own is where the system keeps such things (XDG Base Directory Specification).
    """
    if given is not None:
        return given
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    return _system_folder("XDG_CACHE_HOME", ".cache", "Library/Caches") / "seize"


def _system_folder(variable: str, plain: str, mac: str) -> Path:
    """Return the folder where the system keeps such files; on Windows as on Linux.

    Two lines, where platformdirs would be one more package that nothing else here needs.
    """
    if named := os.environ.get(variable):
        return Path(named)
    return Path.home() / (mac if sys.platform == "darwin" else plain)


def user_file() -> Path:
    """Return the file of settings in the user's configuration folder, be it there or not."""
    return _system_folder("XDG_CONFIG_HOME", ".config", "Library/Preferences") / "seize" / FILE


def find(folder: Path, given: str | None, cache: Path) -> Source:
    """Return where the settings of ``folder`` come from; see the module."""
    if given is not None:
        return Source(given)
    if named := os.environ.get(CONFIG_VARIABLE):
        return Source(named, f"the variable {CONFIG_VARIABLE}")
    root = folder.resolve()
    for place in (root, root.parent):
        if (file := place / FILE).is_file():
            return Source(str(file), str(file), foreign=True)
    if (remembered := read(cache / cache_name(root) / REMEMBERED)) is not None:
        return remembered
    if (file := user_file()).is_file():
        return Source(str(file), str(file))
    return Source(DEFAULT)


def read(file: Path) -> Source | None:
    """Return what ``remember`` kept, None where it kept nothing.

    Raises InputError for what cannot be read or is damaged: other settings would index all anew.
    Files of earlier versions have no checksum, and are read as they are.
    """
    try:
        content = _Remembered.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is damaged"
        raise _unreadable(file, why) from None
    if content.checksum not in (None, fingerprint([content.config, content.set])):
        raise _unreadable(file, "it is damaged")
    return Source(content.config, "what the folder was indexed with", content.set)


class _Remembered(BaseModel):
    """What the file says; the checksum is of the other fields."""

    model_config = ConfigDict(extra="forbid", strict=True)
    config: str
    set: dict[str, Any] = {}
    checksum: str | None = None


def _unreadable(file: Path, why: str | None) -> InputError:
    return InputError(
        f"What the folder was indexed with cannot be read from {file}: {why}. Name the settings "
        "with --config; `seize index` with them writes the file anew."
    )


def load(folder: Path, given: str | None, cache: Path, overrides: dict[str, Any]) -> Config:
    """Return the settings of ``folder``, with ``overrides`` over them.

    Raises ConfigError as ``config.load``, and where a file that came with the pictures would send
    them to another machine.
    """
    source = find(folder, given, cache)
    try:
        config = configuration.load(source.name, source.overrides | overrides)
    except SeizeError as error:
        if not source.told or source.told == source.name:
            raise
        raise type(error)(f"{error} (From {source.told}; --config gives others.)") from None
    if source.foreign:
        configuration.check_stays_here(config, overrides, Path(source.name))
    if source.told:
        log.info("Settings: %s (%s).", source.name, source.told)
    return config


def remember(folder: Path, given: str | None, cache: Path, overrides: dict[str, Any]) -> None:
    """Keep what a folder was indexed with, for commands that name no settings.

    Nothing is kept where a file beside the pictures says it, or where nothing was named.
    """
    chosen = {name: value for name, value in overrides.items() if name.startswith(OF_THE_INDEX)}
    if given is None and not chosen:
        return
    source = find(folder, given, cache)
    if source.foreign:
        return
    kept = source.overrides | {name: _absolute(value) for name, value in chosen.items()}
    root = folder.resolve()
    is_file = Path(source.name).suffix in configuration.ENDINGS
    name = os.path.abspath(source.name) if is_file else source.name
    content = {"config": name, "set": kept, "checksum": fingerprint([name, kept])}
    write_json(cache / cache_name(root) / REMEMBERED, content)


def _absolute(value: Any) -> Any:
    """Return a path, be it behind a kind, from whatever folder it is read; else the value."""
    if not isinstance(value, str):
        return value
    kind, colon, place = value.rpartition(":")
    found = place not in ("", ".", "..") and os.path.exists(place)
    return f"{kind}{colon}{os.path.abspath(place)}" if found else value

"""Errors a user can act on: each message says what is wrong, where, and what to do next."""

import difflib
from collections.abc import Iterable


class SeizeError(Exception):
    """Base of every error this project raises on purpose. The command line exits with its code."""

    exit_code = 1


class ConfigError(SeizeError):
    """A preset, configuration file, prompt or option that cannot be used."""

    exit_code = 2


class InputError(SeizeError):
    """A dataset, image, feature or prediction file with bad content; names the file and field."""

    exit_code = 3


class MissingStageError(SeizeError):
    """A stage was started before the one that makes its input; names the command to run."""

    exit_code = 4


class ModelError(SeizeError):
    """A captioner, LLM or CLIP model that cannot be loaded, or a server that is not there."""

    exit_code = 5


class StorageError(SeizeError):
    """The cache or an output cannot be written (disk full, no permission)."""

    exit_code = 6


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'? Known: a, b.`` to append to an error about an unknown name."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{hint} Known: {', '.join(names)}."

"""Errors a user can act on: each message says what is wrong, where, and what to do next."""

import difflib
from collections.abc import Iterable

from pipeline.installation import INSTALL


class SeizeError(Exception):
    """Any other error, or something wrong that `check` or `doctor` found.

    All errors that a user can act on are of this class, in Python as on the command line:

    >>> import seize
    >>> try:
    ...     seize.load("photoz")
    ... except seize.SeizeError as error:
    ...     print(f"{error} (exit code {error.exit_code})")
    photoz is not a folder. (exit code 3)
    """

    exit_code = 1


class ConfigError(SeizeError):
    """An option, preset, configuration or prompt that cannot be used."""

    exit_code = 2


class InputError(SeizeError):
    """A dataset, image, feature or prediction file with bad content."""

    exit_code = 3


class ConditionError(InputError):
    """A condition on images that none could meet, for what is wrong with it."""


class MissingStageError(SeizeError):
    """An earlier stage has to run first; the message holds its command."""

    exit_code = 4


class ModelError(SeizeError):
    """A model that cannot be loaded or does not fit, or a server that is not there."""

    exit_code = 5


class StorageError(SeizeError):
    """The cache or an output cannot be written."""

    exit_code = 6


class InstallationError(SeizeError):
    """A package that is missing or cannot be imported."""

    exit_code = 7

    @classmethod
    def of(cls, error: ImportError) -> "InstallationError":
        """Return what to tell about a failed import of somebody else's package."""
        name = (error.name or "a package").partition(".")[0]
        return cls(
            f"{name} cannot be imported ({' '.join(str(error).split())[:300]}). Install what the "
            f"project needs: {INSTALL}; `seize doctor` checks all of it."
        )


NO_MEMORY = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of memory",
)
"""What libraries say, in lower case, where memory ran out: torch does so in a RuntimeError."""
WORKER_ENDED = "DataLoader worker"
"""Begins torch's RuntimeError about a decoding process that was killed."""


def memory_problem(error: BaseException) -> str | None:
    """Return what ran out and what to do about it, where memory is behind an error; else None.

    Libraries wrap such errors in others, so those it came from are looked at, too.
    """
    cause: BaseException | None = error
    while cause is not None:
        said = str(cause)
        if isinstance(cause, RuntimeError) and said.startswith(WORKER_ENDED):
            return (
                "A process that decodes images was ended, most often for want of memory. What was "
                "computed is kept; go on with the same command and fewer of them or smaller "
                "batches, e.g. --set runtime.workers=1 (0 for none) --set runtime.embed_batch=16, "
                "or smaller images with --set runtime.max_pixels=50000000."
            )
        if isinstance(cause, MemoryError) or any(words in said.lower() for words in NO_MEMORY):
            return (
                "The memory is used up. What was computed is kept; go on with the same command and "
                "smaller batches, e.g. --set runtime.caption_batch=1 --set runtime.embed_batch=16 "
                "--set runtime.edit_batch=8, fewer processes with --set runtime.workers=1, or a "
                "smaller model."
            )
        cause = cause.__cause__ or cause.__context__
    return None


KEPT = "Stopped. What was computed is kept; the same command resumes."
"""What Ctrl-C is answered with."""

BUG = 70
STOPPED = 130
CLOSED = 141

FAMILIES: tuple[type[SeizeError], ...] = (
    SeizeError,
    ConfigError,
    InputError,
    MissingStageError,
    ModelError,
    StorageError,
    InstallationError,
)

EXIT_CODES = {
    0: "All is well.",
    **{kind.exit_code: (kind.__doc__ or "").partition("\n")[0] for kind in FAMILIES},
    BUG: "An error of seize itself; the message names the file with its traceback.",
    STOPPED: "Stopped with Ctrl-C; the same command resumes.",
    CLOSED: "What read the output has closed it, as `head` does.",
}
"""What the command line's exit codes mean: numbers from 64 on as is usual on Unix."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'? Known: a, b.`` to append to an error about an unknown name."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{hint} Known: {', '.join(names)}."

"""Texts of others that ``seize import`` took into the cache: found by name, read by query."""

import shlex
from pathlib import Path
from typing import Any, NoReturn

from pipeline.config import RuntimeConfig
from pipeline.errors import ConfigError, InputError, MissingStageError
from pipeline.run import Run, slug
from pipeline.store.jsonl import RecordFile, read_header
from pipeline.store.schema import ImportedCaptions, ImportedEdits, typed

KIND_NAME = "imported"
"""The kind of captioner and of LLM that such texts stand for."""
TIME_AND_PLACE = ("versions", "created", "source")


def stem(name: str) -> str:
    """Return how the file of the texts of this name begins."""
    return f"imported-{slug(name)}"


def files_of(folder: Path, name: str) -> list[Path]:
    """Return the files that hold texts of this name."""
    return sorted(folder.glob(f"{stem(name)}-{'[0-9a-f]' * 12}.jsonl"))


def caption_file(run: Run, name: str) -> RecordFile:
    """Return the file of imported captions; raises MissingStageError where there is none."""
    return _file(run, "caption", name)


def edit_file(run: Run, name: str) -> RecordFile:
    """Return the file of imported edits; raises MissingStageError where there is none."""
    return _file(run, "edit", name)


def _file(run: Run, stage: str, name: str) -> RecordFile:
    folder = run.cache / run.name / stage
    files = files_of(folder, name)
    if not files:
        known = sorted(
            header["imported"]
            for file in folder.glob("imported-*.jsonl")
            if (header := _head(file))
        )
        raise MissingStageError(
            f"No {stage}s were imported as {name!r} into {folder}"
            f"{' (there are: ' + ', '.join(known) + ')' if known else ''}. Run: seize import FILE "
            f"--dataset {run.dataset.name} --split {run.dataset.split} --data-root "
            f"{shlex.quote(str(run.dataset.root))} --cache {shlex.quote(str(run.cache))}"
        )
    return RecordFile(files[0], _head(files[0]))


def _head(file: Path) -> dict[str, Any]:
    """Return the header of an imported file, without the time and place of the import."""
    header = read_header(file)
    good = (
        isinstance(header.get("imported"), str)
        and isinstance(header.get("field"), str)
        and "captions" in header
        and isinstance(header["captions"], str | None)
    )
    if not good:
        raise InputError(f"{file} is damaged. Delete it and run `seize import` again.")
    return {key: value for key, value in header.items() if key not in TIME_AND_PLACE}


def captions(run: Run, records: RecordFile) -> dict[str, list[str]]:
    """Return the imported captions by query id."""
    return {record["query"]: record["captions"] for record in typed(records, ImportedCaptions)}


def edits(run: Run, records: RecordFile) -> dict[str, list[str]]:
    """Return the imported edits by query id, one a caption.

    Raises ConfigError if the run's captions are not the ones they were made from.
    """
    wanted = f"{KIND_NAME}:{records.header['captions'] or ''}"
    if run.config.captioner.model != wanted:
        raise ConfigError(
            f"The edits {records.header['imported']!r} were made from other captions. "
            f"Add: --captioner {wanted}"
        )
    if run.config.dataset.both_orders:
        raise ConfigError(
            "Imported edits know one order of the relative captions: drop both_orders."
        )
    return {r["query"]: r["edited_captions"] for r in typed(records, ImportedEdits)}


def identity(settings: Any) -> dict[str, Any]:
    """Return the name of the texts; their file's header identifies them."""
    return {"model": f"{KIND_NAME}:{settings.model}"}


def load(settings: Any, runtime: RuntimeConfig) -> NoReturn:
    """Raise ConfigError: nothing can be made of a new image or text."""
    raise ConfigError(
        f"{KIND_NAME}:{settings.model}: imported texts belong to a benchmark's queries, so none "
        "can be made of anything else."
    )

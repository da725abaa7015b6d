"""Captions and edits in the JSON that SEIZE and LDRE released: read into the cache, and written.

Such a file is an official annotation file whose entries carry more fields, recognised by name:

- captions: ``multi_caption_opt``, ``multi_caption_t5`` (lists); ``blip2_caption``,
  ``blip2_caption_t5`` (one text);
- edits of them, one for one: ``multi_gpt-3.5_opt``, ``multi_gpt-4o_opt``, ``multi_LLM_t5``
  (lists); ``gpt-3.5-turbo``, ``gpt-3.5-turbo_t5`` (one text).

A set of texts is used by its name: ``--captioner imported:NAME --llm imported:NAME``. Texts belong
to a query, not to an image, and are kept byte for byte.
"""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.datasets.base import Dataset
from pipeline.datasets.reading import read_json
from pipeline.errors import ConfigError, InputError, MissingStageError
from pipeline.run import Run, StageReport, log, slug, stage
from pipeline.store.files import write_json
from pipeline.store.identity import fingerprint
from pipeline.store.jsonl import RecordFile, read_header, write_records
from pipeline.store.schema import ImportedCaptions, ImportedEdits, typed

IMPORTED = "imported:"
"""Marks a captioner or LLM whose texts were imported under the name that follows."""

CAPTIONS = re.compile(r"(?P<kind>multi|blip2)_caption(?P<captioner>_\w+)?")
EDITS = re.compile(r"(?P<multi>multi_)?(?P<llm>(?!caption|blip2)[^_]+)(?P<captioner>_\w+)?")
TIME_AND_PLACE = ("versions", "created", "source")


@dataclass
class Imported:
    """What ``seize import`` took from one set of texts, for people and for ``--json``."""

    name: str
    stage: str
    texts: int
    queries: int
    missing: list[str] = field(default_factory=list)
    """Queries whose entries lack the field."""
    writes: str = ""


def is_imported(model: str) -> bool:
    """Return whether a captioner's or LLM's name stands for imported texts."""
    return model.startswith(IMPORTED)


def partner(key: str) -> str | None:
    """Return the caption field that the edits in field ``key`` were made from, None if unknown."""
    found = EDITS.fullmatch(key)
    if found is None or not (found["multi"] or found["llm"].startswith("gpt-")):
        return None
    return ("multi" if found["multi"] else "blip2") + "_caption" + (found["captioner"] or "")


def import_files(
    dataset: Dataset, files: Sequence[Path], cache: Path, prefix: str = ""
) -> list[Imported]:
    """Take every set of texts in ``files`` into the cache; FashionIQ has a file a category.

    Raises InputError naming file, query and field for an entry that is no query of the split, a
    query that is missing, a value that is not text, or edits that do not match their captions.
    """
    values: dict[str, dict[str, list[str]]] = {}
    for file in files:
        entries = read_json(file)
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise InputError(f"{file} must be a list of annotations.")
        for query, entry in zip(dataset.match(entries, file), entries, strict=True):
            if query is None:
                what = json.dumps({k: v for k, v in entry.items() if "caption" not in k})
                raise InputError(
                    f"{file}: the entry {what[:200]} is no query of {dataset.name} {dataset.split}."
                )
            for key, value in entry.items():
                if CAPTIONS.fullmatch(key) or partner(key):
                    values.setdefault(key, {})[query.id] = _texts(
                        value, f"{file}, query {query.id}: {key!r}"
                    )
    if not values:
        raise InputError(
            f"{files[0]} has none of the fields that SEIZE and LDRE released, such as "
            "'multi_caption_opt'."
        )
    return _write(dataset, files, _checked(values, files[0]), cache, prefix)


def _texts(value: Any, where: str) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"{where} must be a text or a list of texts.")
    return texts


def _write(
    dataset: Dataset,
    files: Sequence[Path],
    values: dict[str, dict[str, list[str]]],
    cache: Path,
    prefix: str,
) -> list[Imported]:
    imported = []
    for key, texts in values.items():
        captions = partner(key)
        stage_name = "edit" if captions else "caption"
        field_name = "edited_captions" if captions else "captions"
        records = [
            {"query": query.id, field_name: texts.get(query.id, [])} for query in dataset.queries
        ]
        header = {
            "stage": stage_name,
            "imported": prefix + key,
            "field": key,
            "captions": captions and prefix + captions,
            "texts": fingerprint(records),
        }
        folder = cache / f"{dataset.name}-{dataset.split}" / stage_name
        file = folder / f"{_stem(prefix + key)}-{fingerprint(header)}.jsonl"
        others = [other for other in _files(folder, prefix + key) if other != file]
        if others:
            raise ConfigError(
                f"Other texts were imported as {prefix + key!r} before ({others[0]}). "
                "Give these another name with --name, or delete that file."
            )
        source = {"source": [str(path) for path in files]}
        write_records(file, header | source, records)
        imported.append(
            Imported(
                name=prefix + key,
                stage=stage_name,
                texts=sum(map(len, texts.values())),
                queries=len(texts),
                missing=[query.id for query in dataset.queries if query.id not in texts],
                writes=str(file),
            )
        )
    return imported


def _checked(
    values: dict[str, dict[str, list[str]]], file: Path
) -> dict[str, dict[str, list[str]]]:
    """Return the sets whose captions are there too, and as many; raises InputError."""
    kept = {}
    for key, texts in values.items():
        captions = partner(key)
        if captions is not None and captions not in values:
            log.warning("%s is left out: its captions, %s, are not in the file.", key, captions)
            continue
        for query, own in texts.items() if captions else ():
            expected = len(values[captions or ""].get(query, []))
            if len(own) != expected:
                raise InputError(
                    f"{file}, query {query}: {key!r} has {len(own)} texts, "
                    f"{captions!r} has {expected}."
                )
        kept[key] = texts
    return kept


def _stem(name: str) -> str:
    return f"imported-{slug(name)}"


def _files(folder: Path, name: str) -> list[Path]:
    return sorted(folder.glob(f"{_stem(name)}-{'[0-9a-f]' * 12}.jsonl"))


def record_file(run: Run, stage_name: str, model: str) -> RecordFile:
    """Return the file of imported texts; raises MissingStageError where there is none."""
    name = model.removeprefix(IMPORTED)
    folder = run.cache / run.name / stage_name
    files = _files(folder, name)
    if not files:
        known = sorted(
            header["imported"]
            for file in folder.glob("imported-*.jsonl")
            if (header := _head(file))
        )
        raise MissingStageError(
            f"No {stage_name}s were imported as {name!r} into {folder}"
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


def header(run: Run, stage_name: str, model: str) -> dict[str, Any]:
    """Return what identifies imported texts: their field, name and content."""
    return record_file(run, stage_name, model).header


def captions(records: RecordFile) -> dict[str, list[str]]:
    """Return the imported captions by query id."""
    return {record["query"]: record["captions"] for record in typed(records, ImportedCaptions)}


def edits(
    run: Run, records: RecordFile, captions: dict[str, list[str]]
) -> dict[str, list[str | None]]:
    """Return imported edits by query id, one a caption; None where the file had none.

    Raises ConfigError if the run's captions are not the ones they were made from.
    """
    wanted = IMPORTED + (records.header["captions"] or "")
    if run.config.captioner.model != wanted:
        raise ConfigError(
            f"The edits {records.header['imported']!r} were made from other captions. "
            f"Add: --captioner {wanted}"
        )
    if run.config.dataset.both_orders:
        raise ConfigError(
            "Imported edits know one order of the relative captions: drop both_orders."
        )
    found = {r["query"]: r["edited_captions"] for r in typed(records, ImportedEdits)}
    return {
        query.id: [*found.get(query.id, [])] or [None] * len(captions.get(query.id, []))
        for query in run.queries
    }


def report(stage_name: str, run: Run, records: RecordFile) -> StageReport:
    """Return the report of a stage whose texts were imported: nothing is left to compute."""
    with stage(stage_name, run, [records.file], records.file) as made:
        made.cached = len(records.read())
    return made


def export(run: Run, folder: Path) -> list[Path]:
    """Write the split's annotation files with the run's captions and edits added, as released.

    Generated captions become ``multi_caption_opt`` (``_t5`` for a T5 captioner) and edits
    ``multi_LLM_opt``; imported ones keep their fields. Returns the files written.
    """
    from pipeline.stages import caption, edit

    captions, edited = caption.read(run), edit.read(run)
    caption_field, edit_field = _fields(run)
    written = []
    for name, entries in run.dataset.annotations.items():
        content = []
        for query, entry in zip(run.dataset.match(entries, Path(name)), entries, strict=True):
            if query is not None:
                added: dict[str, list[Any]] = {
                    caption_field: captions.get(query.id, []),
                    edit_field: edited[query.id],
                }
                single = {
                    key: texts[0] if texts else None
                    for key, texts in added.items()
                    if not key.startswith("multi_")
                }
                content.append(entry | added | single)
        file = folder / Path(name).name
        write_json(file, content)
        written.append(file)
    return written


def _fields(run: Run) -> tuple[str, str]:
    captioner, llm = run.config.captioner.model, run.config.llm.model
    family = "t5" if "t5" in captioner.lower() else "opt"
    caption_field, edit_field = f"multi_caption_{family}", f"multi_{slug(llm)}_{family}"
    if is_imported(captioner):
        caption_field = header(run, "caption", captioner)["field"]
        edit_field = f"multi_{slug(llm)}_{caption_field.rpartition('_')[2]}"
    if is_imported(llm):
        edit_field = header(run, "edit", llm)["field"]
    return caption_field, edit_field

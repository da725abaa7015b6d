"""Captions and edits in the JSON that SEIZE and LDRE released, read into the cache.

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
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.datasets.base import Dataset
from pipeline.datasets.reading import read_json
from pipeline.errors import ConfigError, InputError
from pipeline.models.imported import files_of, stem
from pipeline.run import log
from pipeline.store.identity import fingerprint
from pipeline.store.jsonl import write_records

CAPTIONS = re.compile(r"(?P<kind>multi|blip2)_caption(?P<captioner>_\w+)?")
EDITS = re.compile(r"(?P<multi>multi_)?(?P<llm>(?!caption|blip2)[^_]+)(?P<captioner>_\w+)?")


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
        file = folder / f"{stem(prefix + key)}-{fingerprint(header)}.jsonl"
        others = [other for other in files_of(folder, prefix + key) if other != file]
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

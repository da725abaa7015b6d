"""What the readers of benchmarks share: annotations, predictions and JSON that is checked."""

import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from pipeline.errors import InputError
from pipeline.yamls import words

Predictions = Mapping[str, Sequence[str]]
"""Query id to image ids, best first."""


class Entry(BaseModel):
    """One annotation of a benchmark's file; fields this project does not use are ignored."""

    model_config = ConfigDict(extra="ignore", str_strip_whitespace=True)


class FashionPair(Entry):
    """Two images and what differs, in FashionIQ's shape or with FACap's README's keys."""

    candidate: str = Field(validation_alias=AliasChoices("candidate", "reference"))
    target: str
    captions: list[str] = Field(
        min_length=1, validation_alias=AliasChoices("captions", "modification")
    )

    @field_validator("captions", mode="before")
    @classmethod
    def _one_text(cls, captions: Any) -> Any:
        return [captions] if isinstance(captions, str) else captions


Annotation = TypeVar("Annotation", bound=Entry)

SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""Escapes of which JSON makes text that UTF-8 cannot hold, unless they come in pairs."""


def parse_entry(kind: type[Annotation], content: Any, where: str) -> Annotation:
    """Return ``content`` as ``kind``; raises InputError with ``where`` and the field."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"])
        what = (
            "is missing" if problem["type"] == "missing" else f"is wrong: {words(problem['msg'])}"
        )
        raise InputError(f"{where}: {repr(field) if field else 'it'} {what}.") from None


def existing_ending(paths: Iterable[Path], endings: Sequence[str]) -> str:
    """Return the first of ``endings`` that any of the first few ``paths`` (no ending) has."""
    for path in list(paths)[:20]:
        for ending in endings:
            if os.path.exists(f"{path}{ending}"):  # False for a name that is too long, too
                return ending
    return endings[0]


def read_predictions(content: Any, file: Path) -> dict[str, list[str]]:
    """Return query ids to lists of ids as strings; raises InputError naming file and query."""
    if not isinstance(content, dict):
        raise InputError(f"{file} must be an object of query ids and lists of images.")
    for name, images in content.items():
        if not is_id_list(images):
            raise InputError(f"{file}, query {name}: expected a list of image ids.")
    return {name: [str(image) for image in images] for name, images in content.items()}


def is_id_list(images: Any) -> bool:
    """Return whether ``images`` is a list of ids: strings or integers."""
    return isinstance(images, list) and all(
        isinstance(image, (str, int)) and not isinstance(image, bool) for image in images
    )


def read_bytes(file: Path, digest: "hashlib._Hash | None" = None) -> bytes:
    """Return what a file holds, after it has entered ``digest``; raises InputError naming it."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        hint = " Is --data-root right?" if digest is not None else ""
        raise InputError(f"{file} does not exist.{hint}") from None
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None
    if digest is not None:
        digest.update(content)
    return content


def read_lines(file: Path, digest: "hashlib._Hash | None" = None) -> list[tuple[str, str]]:
    """Return where each line of a text file stands (``FILE, line 3``) and what it says.

    Empty lines are passed over. Raises InputError naming the file, and the line that is no UTF-8.
    """
    found = []
    for number, line in enumerate(read_bytes(file, digest).splitlines(), start=1):
        where = f"{file}, line {number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise InputError(f"{where} is no UTF-8: {error}.") from None
        if text:
            found.append((where, text))
    return found


def read_parquet(file: Path, digest: "hashlib._Hash | None" = None) -> list[dict[str, Any]]:
    """Return the rows of a Parquet file as plain data; raises InputError naming the file."""
    content = read_bytes(file, digest)
    try:
        import pyarrow.parquet
    except ImportError:
        raise InputError(f"{file} is Parquet, which pyarrow reads: pip install pyarrow.") from None
    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{file} is not a Parquet file that can be read: {first}") from None
    return rows


def read_json(file: Path, digest: "hashlib._Hash | None" = None) -> Any:
    """Read a JSON file; raises InputError naming the file, and the line where it is malformed."""
    content = read_bytes(file, digest)
    try:
        return parse_json(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not valid JSON: {error}") from None


def read_json_lines(file: Path, digest: "hashlib._Hash | None" = None) -> Iterator[tuple[str, Any]]:
    """Yield where each line of a file stands (``FILE, line 3``) and what it holds as JSON.

    Empty lines are passed over. Raises InputError naming file and line.
    """
    content = read_bytes(file, digest)
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            where = f"{file}, line {number}"
            try:
                yield where, parse_json(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{where} is not valid JSON: {error}") from None


def parse_json(content: bytes) -> Any:
    """Return what UTF-8 JSON holds; raises ValueError or RecursionError.

    Half a surrogate pair is refused too: such text can be parsed, but never written again.
    """
    text = content.decode("utf-8-sig")
    parsed = json.loads(text)
    if SURROGATE.search(text):
        json.dumps(parsed, ensure_ascii=False).encode()
    return parsed

"""Triplets in the shapes of other projects' files: read from them, and written for them.

| shape | file | an entry holds |
| --- | --- | --- |
| ``fashioniq`` | JSON list | candidate, target, captions |
| ``facap`` | JSON list | the same, or reference, target, modification |
| ``cirr`` | JSON list | reference, target_hard, caption, img_set |
| ``mtst`` | JSON lines | one of these with modifier_generated: the text back to the reference; |
|  |  | or reference, target, modifier_generated, modifier_reversed |
| ``finecir`` | JSON lines | one of these with finemt, a long text, in place of its captions |
| ``transagg`` | JSON map or list | relative_cap, tgt_image_id and, in the map, tgt_cap |

Facts from the public files: FACap (fgxaos/facap-sigir25-gennext), MTST (zyinan99/MTST_PTHA),
FineCIR (SDU-L/FineCIR), TransAgg (Code-kunkun/ZS-CIR).
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from pipeline.datasets.reading import Entry, FashionPair, parse_entry, read_json, read_json_lines
from pipeline.datasets.triplets import Triplet
from pipeline.errors import ConfigError, InputError, nearest

JOINED = " and "
"""Between the captions of an entry with several."""
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png")


class _Cirr(Entry):
    reference: str
    target_hard: str
    caption: str
    pairid: int | str | None = None
    img_set: dict[str, Any] | None = None


class _MtstFashionIq(FashionPair):
    modifier_generated: str


class _MtstCirr(_Cirr):
    modifier_generated: str


class _MtstSynthetic(Entry):
    reference: str
    target: str
    modifier_generated: str
    modifier_reversed: str


class _FineFashionIq(Entry):
    candidate: str
    target: str
    finemt: str


class _FineCirr(_Cirr):
    caption: str = Field(validation_alias="finemt")


class _TransAgg(Entry):
    ref_image_id: str | int
    tgt_image_id: str | int | None
    relative_cap: str
    tgt_cap: str | None = None


def _fashioniq(entry: FashionPair) -> dict[str, Any]:
    several = {"captions": entry.captions} if len(entry.captions) > 1 else {}
    text = JOINED.join(entry.captions)
    return {
        "reference": entry.candidate,
        "target": entry.target,
        "text": text,
        "origin": several,
    }


def _cirr(entry: _Cirr) -> dict[str, Any]:
    besides = {"pairid": entry.pairid, "img_set": entry.img_set}
    return {
        "reference": entry.reference,
        "target": entry.target_hard,
        "text": entry.caption,
        "origin": {name: value for name, value in besides.items() if value is not None},
    }


def _mtst_fashioniq(entry: _MtstFashionIq) -> dict[str, Any]:
    made = _fashioniq(entry) | {"text_reverse": entry.modifier_generated}
    return made | {name: _bare(made[name]) for name in ("reference", "target")}


def _bare(name: str) -> str:
    """Return an image's name without the ending that these files add to FashionIQ's ids."""
    return name.rpartition(".")[0] if name.endswith(IMAGE_ENDINGS) else name


def _mtst_synthetic(entry: _MtstSynthetic) -> dict[str, Any]:
    return {
        "reference": entry.reference,
        "target": entry.target,
        "text": entry.modifier_generated,
        "text_reverse": entry.modifier_reversed,
    }


def _transagg(entry: _TransAgg) -> dict[str, Any]:
    return {
        "reference": str(entry.ref_image_id),
        "target": None if entry.tgt_image_id is None else str(entry.tgt_image_id),
        "text": entry.relative_cap,
        "target_caption": entry.tgt_cap,
    }


Shape = tuple[str, frozenset[str], type[Any], Callable[[Any], dict[str, Any]]]
"""The name of the files, a key by which an entry is known, its form, and its triplet's fields."""
SHAPES: tuple[Shape, ...] = (
    ("mtst", frozenset({"modifier_reversed"}), _MtstSynthetic, _mtst_synthetic),
    (
        "mtst",
        frozenset({"modifier_generated", "target_hard"}),
        _MtstCirr,
        lambda entry: _cirr(entry) | {"text_reverse": entry.modifier_generated},
    ),
    ("mtst", frozenset({"modifier_generated"}), _MtstFashionIq, _mtst_fashioniq),
    ("finecir", frozenset({"finemt", "target_hard"}), _FineCirr, _cirr),
    (
        "finecir",
        frozenset({"finemt"}),
        _FineFashionIq,
        lambda e: {"reference": e.candidate, "target": e.target, "text": e.finemt},
    ),
    ("transagg", frozenset({"relative_cap"}), _TransAgg, _transagg),
    ("cirr", frozenset({"target_hard"}), _Cirr, _cirr),
    ("fashioniq", frozenset({"captions"}), FashionPair, _fashioniq),
    ("fashioniq", frozenset({"modification"}), FashionPair, _fashioniq),
    ("facap", frozenset({"captions"}), FashionPair, _fashioniq),
    ("facap", frozenset({"modification"}), FashionPair, _fashioniq),
)
"""The most telling first."""
FORMATS = tuple(sorted({name for name, *_ in SHAPES}))


def read(file: Path, name: str | None = None, category: str | None = None) -> list[Triplet]:
    """Return the triplets of a file in the shape ``name``; told by its first entry where None.

    Raises ConfigError for a shape that there is not, InputError naming file, entry and key.
    """
    if name is not None and name not in FORMATS:
        raise ConfigError(f"There is no format of triplets {name!r}.{nearest(name, FORMATS)}")
    shape: Shape | None = None
    found = []
    for where, entry in _entries(file):
        shape = shape or _shape(entry, where, name)
        own, _, form, fields = shape
        made = {"generator": f"imported: {own}", "category": category}
        made |= fields(parse_entry(form, entry, where))
        found.append(parse_entry(Triplet, made, where))
    if not found:
        raise InputError(f"{file} holds no triplet.")
    return found


def _shape(entry: Any, where: str, name: str | None) -> Shape:
    """Return the shape of a file's first entry."""
    keys = set(entry) if isinstance(entry, dict) else set()
    candidates = [shape for shape in SHAPES if name in (None, shape[0])]
    for shape in candidates:
        if shape[1] <= keys:
            return shape
    if name is not None:  # its own form says which key is missing
        return candidates[-1]
    told = "; ".join(dict.fromkeys(" and ".join(sorted(known)) for _, known, *_ in SHAPES))
    raise InputError(
        f"{where} has the shape of no known file of triplets. Known are entries with: {told}."
    )


def _entries(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield where each entry stands and what it holds: of a list, of a map, or of JSON lines."""
    if not _one_document(file):
        yield from read_json_lines(file)
        return
    content = read_json(file)
    if isinstance(content, dict):
        for key, entry in content.items():
            fields = entry if isinstance(entry, dict) else {}
            yield f"{file}, entry {key!r}", {"ref_image_id": key} | fields
    elif isinstance(content, list):
        for number, entry in enumerate(content):
            yield f"{file}, entry {number}", entry


def _one_document(file: Path) -> bool:
    """Whether a file is one list or map, and no JSON lines, whatever its name says."""
    try:
        with file.open("rb") as stream:
            line = stream.readline(1 << 20).strip()
    except FileNotFoundError:
        raise InputError(f"{file} does not exist.") from None
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from None
    if not line.startswith(b"{"):
        return True
    try:
        first = json.loads(line)
    except (ValueError, RecursionError):
        return True
    return isinstance(first, dict) and all(isinstance(value, dict) for value in first.values())


def fashioniq(triplets: Sequence[Triplet]) -> list[dict[str, Any]]:
    """Return FashionIQ's annotations: candidate, target, captions."""
    return [
        {
            "target": one.target,
            "candidate": one.reference,
            "captions": one.origin.get("captions", [one.text]),
        }
        for one in triplets
    ]


def cirr(triplets: Sequence[Triplet]) -> list[dict[str, Any]]:
    """Return CIRR's annotations; a set of images is reference and target where none is known."""
    return [
        {
            "pairid": one.origin.get("pairid", number),
            "reference": one.reference,
            "target_hard": one.target,
            "target_soft": {one.target: 1.0},
            "caption": one.text,
            "img_set": one.origin.get("img_set", _image_set(one, number)),
        }
        for number, one in enumerate(triplets)
    ]


def _image_set(one: Triplet, number: int) -> dict[str, Any]:
    members = [one.reference, one.target]
    return {"id": number, "members": members, "reference_rank": 0, "target_rank": 1}


def transagg(triplets: Sequence[Triplet]) -> dict[str, Any]:
    """Return TransAgg's map of reference images; ConfigError where one has several triplets."""
    found: dict[str, Any] = {}
    for one in triplets:
        if one.reference in found:
            raise ConfigError(
                f"The map of TransAgg holds one triplet a reference image, and {one.reference!r} "
                "has several. Use --format transagg-list, which has no target captions."
            )
        entry = {"tgt_image_id": one.target, "relative_cap": one.text}
        found[one.reference] = entry | {"tgt_cap": one.target_caption or ""}
    return found


def transagg_list(triplets: Sequence[Triplet]) -> list[dict[str, Any]]:
    """Return TransAgg's list of triplets."""
    return [
        {"ref_image_id": one.reference, "relative_cap": one.text, "tgt_image_id": one.target}
        for one in triplets
    ]


EXPORTS: dict[str, Callable[[Sequence[Triplet]], Any]] = {
    "fashioniq": fashioniq,
    "cirr": cirr,
    "transagg": transagg,
    "transagg-list": transagg_list,
}
"""What writes each shape. Triplets without a target image have a place in none of them."""

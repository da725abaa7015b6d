"""When segments of growing features are merged: by size tiers, and now and then into the large one.

Segments whose counts of rows have the same integer logarithm to the base ``FANOUT`` are a tier. A
tier of ``FANOUT`` segments becomes one segment, so a row is written again once a tier, and segments
are few. What stands beside the large file, and what is not wanted in it, is ``SHARE`` of it at
most; beyond, all becomes one file. So a row that comes costs the writing of a few, however many
there are.
"""

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import InputError
from pipeline.store.features import FeatureFile, write_feature_blocks
from pipeline.store.files import remove_unfinished
from pipeline.store.segments import folder_of, manifest_of, read_manifest, write_manifest
from pipeline.store.shards import Stored, merge, next_shards

FANOUT = 8
"""Segments of a tier that are merged."""
SHARE = 0.25
"""Rows beside the large file, and rows of it that are not wanted, against those it has, at most."""


def publish(file: Path, names: list[str], kind: dict[str, Any], stored: Stored) -> None:
    """Let all that is stored of ``names`` count as ``file``'s, and merge what is worth it.

    Whatever the moment it is stopped at: what was published before counts, or what is now.
    """
    wanted = set(names) & stored.places.keys()
    used = np.bincount(stored.files_of(wanted), minlength=len(stored.files)).tolist()
    large = stored.files.index(file) if file in stored.files else None
    if large is None or file in stored.damaged or _is_worth_it(stored, used, large):
        merge(file, names, kind, stored)
        return
    kept = [number for number in range(len(stored.files)) if number != large and used[number]]
    group = [kept[place] for place in _merged(kept, used, stored)]
    listed = {
        stored.files[number].name: stored.identities[number]
        for number in kept
        if number not in group
    }
    if group:
        made = next(next_shards(file))
        standing = [name for name in names if name in wanted]
        beside = np.isin(stored.files_of(standing), group)
        some = [standing[place] for place in np.flatnonzero(beside)]
        blocks = stored.blocks(some)
        write_feature_blocks(made, some, blocks, stored.width, np.dtype(np.float32), kind)
        listed[made.name] = FeatureFile(made).identity
    _list(file, stored.identities[large], listed)
    for path in folder_of(file).glob("*.safetensors"):
        if path.name not in listed:
            path.unlink(missing_ok=True)
    remove_unfinished(folder_of(file))
    with contextlib.suppress(OSError):  # not there, or not empty
        folder_of(file).rmdir()


def _is_worth_it(stored: Stored, used: Sequence[int], large: int) -> bool:
    """Whether so much is beside the large file, or unwanted in it, that it is written anew."""
    beside, unwanted = sum(used) - used[large], stored.counts[large] - used[large]
    return beside + unwanted > SHARE * stored.counts[large]


def _merged(kept: Sequence[int], used: Sequence[int], stored: Stored) -> list[int]:
    """Return the places in ``kept`` of the segments to be merged into one."""
    spoilt = [
        place
        for place, number in enumerate(kept)
        if stored.files[number] in stored.damaged or used[number] < stored.counts[number] / 2
    ]
    sizes = [used[number] for number in kept]
    return sorted({*spoilt, *full_tiers(sizes)})


def full_tiers(sizes: Sequence[int]) -> list[int]:
    """Return which of segments of these sizes are merged, with what that fills up."""
    tiers: dict[int, list[int]] = {}
    for place, size in enumerate(sizes):
        tiers.setdefault(tier(size), []).append(place)
    chosen: list[int] = []
    for level, places in sorted(tiers.items()):
        carried = bool(chosen) and tier(sum(sizes[place] for place in chosen)) == level
        if len(places) + carried >= FANOUT:
            chosen += places
    return chosen


def tier(rows: int) -> int:
    """Return the tier of a segment."""
    return int(math.log(max(rows, 1), FANOUT) + 1e-9)


def _list(file: Path, beside: str, listed: dict[str, str]) -> None:
    """Publish segments, unless they are so already."""
    if not listed:
        manifest_of(file).unlink(missing_ok=True)
        return
    before = None
    with contextlib.suppress(InputError):
        before = read_manifest(file)
    if before is None or (before.beside, before.segments) != (beside, listed):
        write_manifest(file, beside, listed)

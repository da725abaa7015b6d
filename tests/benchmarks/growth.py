"""How what was measured grows with a gallery, and what one too large to measure would take."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tests.benchmarks.report import table

PLANNED = 1_000_000_000
"""Images that the plan is for."""

MEMORY = 64 << 30
"""Bytes of memory of a machine of the plan."""

KEPT = 0.8
"""Share of it that holds the index."""

REAL = 768
"""Dimensions of ViT-L-14's features, for the plan."""


@dataclass(frozen=True)
class Measured:
    """What an index of one size took. Times are of the CPU, in seconds."""

    images: int
    width: int
    query: float
    """A query's time."""
    built: float
    size: float
    """Bytes on disk, which memory should hold."""
    read: float = math.nan
    """Images a query of which anything was read."""
    visited: float = math.nan
    """Images a query that were read in full."""


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return b of a·imagesᵇ, the line through the logarithms; NaN for fewer than two sizes."""
    if len(sizes) < 2 or not all(value > 0 for value in values):
        return math.nan
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def at(images: float, sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return the value for as many images, from the largest size on by the exponent."""
    return float(values[-1] * (images / sizes[-1]) ** exponent(sizes, values))


def exponents(title: str, measured: dict[str, list[Measured]]) -> str:
    """Return a table of the exponents of everything that was measured."""
    titles = {
        "query": "CPU time a query",
        "read": "images read",
        "visited": "read in full",
        "built": "CPU time to build",
        "size": "bytes",
    }
    everything = [one for found in measured.values() for one in found]
    columns = [
        name for name in titles if not any(math.isnan(getattr(one, name)) for one in everything)
    ]
    rows = []
    for name, found in measured.items():
        sizes = [one.images for one in found]
        values = [[getattr(one, column) for one in found] for column in columns]
        rows.append((name, *(_said(exponent(sizes, column)) for column in values)))
    return table(title, ("", *map(titles.get, columns)), rows)


def _said(number: float) -> str:
    return "" if math.isnan(number) else f"{number:.2f}"


def extended(measured: dict[str, list[Measured]], images: int) -> Iterator[str]:
    """Yield a table of what ``images`` would take by the exponents, where fewer were measured."""
    rows = []
    for name, found in measured.items():
        sizes = [one.images for one in found]
        if sizes[-1] >= images or len(sizes) < 2:
            continue
        query, built, size, read, visited = (
            at(images, sizes, [getattr(one, column) for one in found])
            for column in ("query", "built", "size", "read", "visited")
        )
        cells = [f"{1000 * query:.1f}", f"{built / 3600:.1f}", f"{size / 1e9:.1f}"]
        if not math.isnan(read):
            cells += [f"{read / images:.2%}", f"{visited / images:.2%}"]
        rows.append((name, *cells))
    columns = ("", "CPU ms a query", "CPU hours to build", "GB", "anything read of", "read in full")
    if rows:
        columns = columns[: max(map(len, rows))]
        yield table(f"{images:,} images by these exponents, not measured", columns, rows)


def plan(measured: dict[str, list[Measured]]) -> str:
    """Return a table of what ``PLANNED`` images would take, a shard of them a machine.

    Bytes and times of other dimensions than were measured are taken as proportional to them.
    """
    return table(
        f"On paper: {PLANNED:,} images of {REAL} dimensions, machines of {MEMORY >> 30} GiB that "
        "hold a shard each in memory; from the exponents above, bytes and times taken as "
        "proportional to dimensions",
        (
            "",
            "TB in all",
            "machines",
            "images each",
            "CPU ms a query, each",
            "CPU s a query, all",
            "CPU hours to build, each",
        ),
        _planned(measured),
    )


def _planned(measured: dict[str, list[Measured]]) -> Iterable[tuple[str, ...]]:
    for name, found in measured.items():
        sizes = [one.images for one in found]
        if len(sizes) < 2:
            continue
        wider = REAL / found[-1].width
        each = found[-1].size / found[-1].images * wider
        machines = math.ceil(PLANNED * each / (KEPT * MEMORY))
        images = PLANNED / machines
        query = wider * at(images, sizes, [one.query for one in found])
        built = wider * at(images, sizes, [one.built for one in found]) if found[-1].built else 0
        yield (
            name,
            f"{PLANNED * each / 1e12:.1f}",
            f"{machines}",
            f"{images / 1e6:.0f} million",
            f"{1000 * query:,.0f}",
            f"{machines * query:,.1f}",
            f"{built / 3600:,.1f}" if built else "",
        )

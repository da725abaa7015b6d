"""Benchmarks: one file each. A new one is a subclass of ``Dataset`` and a line here."""

from pathlib import Path

from pipeline.datasets.base import Dataset
from pipeline.datasets.circo import Circo
from pipeline.datasets.cirr import Cirr
from pipeline.datasets.fashioniq import FashionIq
from pipeline.errors import ConfigError, nearest

DATASETS: dict[str, type[Dataset]] = {kind.name: kind for kind in (Circo, Cirr, FashionIq)}


def find(name: str) -> type[Dataset]:
    """Return the benchmark of that name; raises ConfigError with the nearest one."""
    try:
        return DATASETS[name]
    except KeyError:
        raise ConfigError(f"There is no dataset {name!r}.{nearest(name, DATASETS)}") from None


def load(
    name: str, split: str, root: Path, gallery: str = "split", follow_links: bool = False
) -> Dataset:
    """Read one split of a benchmark below ``root``; raises ConfigError or InputError.

    ``follow_links`` allows image files that are links out of the images' folder.
    """
    kind = find(name)
    if split not in kind.splits:
        raise ConfigError(f"{name} has no split {split!r}.{nearest(split, kind.splits)}")
    return kind(split, root, gallery, follow_links)

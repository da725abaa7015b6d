"""Benchmarks: one file each, a subclass of ``Dataset``. A package of one's own adds some through
entry points in the group ``seize.datasets``, each naming a module or such a class.
"""

from pathlib import Path
from typing import Any

from pipeline import plugins
from pipeline.datasets.base import Dataset
from pipeline.errors import ConfigError, nearest

GROUP = "seize.datasets"


def known() -> dict[str, type[Dataset]]:
    """Return every benchmark by its name, in the order of names."""
    plugins.load(__name__, GROUP)
    kinds = {kind.name: kind for kind in _below(Dataset) if hasattr(kind, "name")}
    return dict(sorted(kinds.items()))


def _below(kind: Any) -> list[type[Dataset]]:
    children: list[type[Dataset]] = kind.__subclasses__()
    return children + [below for child in children for below in _below(child)]


def find(name: str) -> type[Dataset]:
    """Return the benchmark of that name; raises ConfigError with the nearest one."""
    kinds = known()
    try:
        return kinds[name]
    except KeyError:
        raise ConfigError(f"There is no dataset {name!r}.{nearest(name, kinds)}") from None


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

"""Benchmarks: one file each, a subclass of ``Dataset``. A package of one's own adds some through
entry points in the group ``seize.datasets``, each naming a module or such a class.
"""

from pathlib import Path
from typing import Any

from pipeline import plugins
from pipeline.datasets.base import Dataset
from pipeline.errors import ConfigError, nearest
from pipeline.run import log

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
    loaded = kind(split, root, gallery, follow_links)
    for note in loaded.notes:
        log.warning("%s %s: %s", name, split, note)
    return loaded


def names() -> str:
    """Return the names of the benchmarks that are shipped or installed, for people."""
    installed = {point.module for point in plugins.entry_points(GROUP).values()}
    *most, last = (
        name
        for name, kind in known().items()
        if kind.__module__.startswith(f"{__name__}.") or kind.__module__ in installed
    )
    return f"{', '.join(most)} or {last}"

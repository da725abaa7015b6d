"""What others can add: modules of a package here, and entry points of packages of their own."""

import functools
import importlib
import pkgutil
from importlib import metadata
from types import ModuleType

from pipeline.errors import ConfigError


@functools.cache
def names(package: str) -> tuple[str, ...]:
    """Return the names of a package's modules, without importing them; private ones are left out.

    A module whose name starts with an underscore is no part that could be chosen.
    """
    folder = importlib.import_module(package).__path__
    return tuple(m.name for m in pkgutil.iter_modules(folder) if not m.name.startswith("_"))


@functools.cache
def modules(package: str) -> tuple[ModuleType, ...]:
    """Import every module of a package but private ones; return them in the order of names."""
    return tuple(importlib.import_module(f"{package}.{name}") for name in names(package))


@functools.cache
def entry_points(group: str) -> dict[str, metadata.EntryPoint]:
    """Return the entry points that installed packages have in ``group``, by name."""
    return {point.name: point for point in metadata.entry_points(group=group)}


@functools.cache
def load(package: str, group: str) -> tuple[ModuleType | object, ...]:
    """Import every module of ``package`` and every entry point of ``group``; return them.

    Raises ConfigError naming the entry point that cannot be imported.
    """
    return (*modules(package), *(resolved(point) for point in entry_points(group).values()))


def resolved(point: metadata.EntryPoint) -> object:
    """Return what an entry point names; raises ConfigError where it cannot be imported."""
    try:
        return point.load()
    except Exception as error:
        package = point.dist.name if point.dist else "an installed package"
        raise ConfigError(
            f"{package} adds {point.name!r} ({point.group}), which cannot be imported: "
            f"{type(error).__name__}: {error}. Mend or uninstall that package."
        ) from error

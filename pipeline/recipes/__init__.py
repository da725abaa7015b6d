"""Recipes: what `seize train` trains, one file each, which holds a ``RECIPE``.

A package of one's own adds some through entry points in the group ``seize.recipes``, each naming a
module with a ``RECIPE``, or one itself.
"""

import importlib
from typing import Any

from pipeline import plugins
from pipeline.errors import ConfigError, nearest
from pipeline.recipes.base import Recipe

GROUP = "seize.recipes"
SHARED = ("base", "images", "validation")
"""Modules of this folder that hold what recipes share."""


def names() -> list[str]:
    """Return the names of all recipes; none is imported for it."""
    own = [name for name in plugins.names(__name__) if name not in SHARED]
    return sorted({*own, *plugins.entry_points(GROUP)})


def find(name: str) -> Recipe:
    """Return the recipe of that name; raises ConfigError with the nearest one."""
    if name not in names():
        raise ConfigError(f"There is no recipe {name!r}.{nearest(name, names())}")
    points = plugins.entry_points(GROUP)
    found: Any = (
        plugins.resolved(points[name])
        if name in points
        else importlib.import_module(f"{__name__}.{name}")
    )
    found = getattr(found, "RECIPE", found)
    if not isinstance(found, Recipe):
        raise ConfigError(f"{name!r} ({GROUP}) names no Recipe. Correct its entry point.")
    return found

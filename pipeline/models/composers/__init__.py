"""Composers: trained heads that turn an image's and a text's feature into a query's.

One file a head, which declares it as ``HEAD``; a checkpoint names its head, and nobody else does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from pipeline import plugins
from pipeline.errors import ConfigError, nearest

if TYPE_CHECKING:
    from pipeline.models.composers.base import Head

SHARED = ("base", "checkpoints", "losses", "phrases", "settings", "training")
"""Modules of this package that hold no head."""


def names() -> tuple[str, ...]:
    """Return the names of all heads; none is imported for it."""
    found = (name for name in plugins.names(__name__) if name not in SHARED)
    return tuple(name.replace("_", "-") for name in found)


def find(name: str) -> type[Head]:
    """Return the head of that name; raises ConfigError with the nearest one."""
    if name not in names():
        raise ConfigError(f"There is no composer {name!r}.{nearest(name, names())}")
    head: type[Head] = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").HEAD
    return head

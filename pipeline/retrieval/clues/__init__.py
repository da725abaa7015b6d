"""Clues: what is known about a query as vectors, one file each.

A package of one's own adds some through entry points in the group ``seize.clues``, each naming a
module that registers them with ``clue``.
"""

from pipeline import plugins
from pipeline.retrieval.clues.base import (
    CLUES,
    TRAINING,
    Clue,
    Clues,
    Source,
    Texts,
    Training,
    closure,
    clue,
    good,
)

GROUP = "seize.clues"

plugins.load(__name__, GROUP)

__all__ = [
    "CLUES",
    "TRAINING",
    "Clue",
    "Clues",
    "Source",
    "Texts",
    "Training",
    "closure",
    "clue",
    "good",
]

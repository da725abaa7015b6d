"""Composers on cached features: the ideas of SCOT, CDD-ICM, MTST, FineCIR and FashionBLIP-2."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError
from pipeline.models import composers
from pipeline.models.composers.settings import Settings
from pipeline.recipes.base import Given, Preset, Recipe, Source
from pipeline.run import Run

if TYPE_CHECKING:
    from pipeline.models.composers.training import Composing

NAMED = re.compile(r"triplets\.(train|val|test)\.jsonl")


def run_of(given: Given) -> Run:
    """Return the run of the triplets: of DATASET:SPLIT, or of a triplets.SPLIT.jsonl.

    Raises ConfigError for what is neither.
    """
    place, changes = given.sources["triplets"] or "", {"search.method": "image+text"}
    if not place.endswith(".jsonl"):
        return given.run(place, changes)
    named = NAMED.fullmatch(Path(place).name)
    if named is None:
        raise ConfigError(
            f"--triplets {place}: a file of triplets is triplets.train.jsonl (or .val, .test) with "
            "images.json and images beside it, as `seize synthesize` writes it."
        )
    own = replace(given, data_root=Path(place).parent)
    return own.run(f"triplets:{named[1]}", changes)


def make(given: Given) -> Composing:
    """Return the task of a split's triplets; refuses settings and triplets before it embeds."""
    settings = given.settings
    assert isinstance(settings, Settings)
    head = composers.find(settings.head)
    run = run_of(given)
    from pipeline.config import resolve_device
    from pipeline.models.composers.training import Composing
    from pipeline.models.training import loop
    from pipeline.stages import composing

    loop.check(settings, len(composing.triplets_of(run)), given.out, "triplets")
    lessons = composing.lessons(run, head.reads_tokens)
    loop.check(settings, len(lessons.examples), given.out, "triplets that can be used")
    device = resolve_device(run.config.runtime.device)
    task = Composing(lessons.examples, settings, lessons.identity, device)
    task.record = {"left_out": dict(lessons.left_out), "title": task.module.title}
    return task


RECIPE = Recipe(
    "composer",
    """Train a composer: a head that makes one query of reference image and relative caption.

    From triplets (`seize synthesize` writes some of one's own images), on features that are cached:
    no encoder runs once they are there. A split that it was trained on says nothing of it.

    Example: seize train composer --triplets catalogue/triplets.train.jsonl --head combiner
    --validate cirr:val --data-root /data --out composer.safetensors
    """,
    Settings,
    (Source("triplets", "triplets.SPLIT.jsonl with images beside it, or DATASET:SPLIT"),),
    make,
    {
        "scot": Preset(
            "SCOT (arXiv 2501.08347): the Combiner drawn to the edited caption's feature",
            {"head": "combiner", "aim": "text"},
            unstated="Batch, rate and steps were not readable; this recipe's defaults are taken",
        ),
        "mtst": Preset(
            "MTST (arXiv 2504.05316; zyinan99/MTST_PTHA): weights of its terms, smoothing, decay",
            {"head": "two-hop", "aim": "image", "smoothing": 0.1, "weight_decay": 0.05}
            | {"beta2": 0.98, "batch": 128},
            unstated="Its rates tune a Q-Former; this recipe's default is taken for a new head",
        ),
    },
    weights="search.composer.checkpoint",
    method="composer",
)

"""Pairs of scenes with two changes between them, which fashion benchmarks are made of."""

import random
from dataclasses import dataclass

from pipeline.demo import world
from pipeline.demo.build import neighbour, question
from pipeline.demo.world import Edit, Scene

EACH = 8
"""Scenes that a pair takes, its own and others."""


@dataclass(frozen=True)
class Pairs:
    """Scenes by number, and the pairs among them."""

    scenes: list[Scene]
    asked: list[tuple[int, int, tuple[str, str]]]
    """Number of reference and target, and what changes."""


def pairs(rng: random.Random, count: int, groups: int | None = None) -> Pairs:
    """Return ``count`` pairs and other scenes, some of them near."""
    scenes: list[Scene] = []
    asked = []
    for _ in range(count):
        said: list[str] = []

        def both(scene: Scene, rng: random.Random, said: list[str] = said) -> Edit:
            first, second = world.halves_of_edit(scene, rng)
            said[:] = [first.text, second.text]
            return Edit("", (), lambda one: second.apply(first.apply(one)))

        scene, _, target = question(rng, groups, both)
        asked.append((len(scenes), len(scenes) + 1, (said[0], said[1])))
        scenes += [scene, target, neighbour(target, rng), neighbour(scene, rng)]
        scenes += [world.random_scene(rng, groups) for _ in range(EACH - 4)]
    return Pairs(scenes, asked)


def long_text(texts: tuple[str, str]) -> str:
    """Return two changes as one text of several sentences."""
    return f"1. It {texts[0]}.\n2. It {texts[1]}.\nEverything else stays as it is."

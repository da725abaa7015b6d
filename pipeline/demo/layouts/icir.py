"""The world as i-CIR: an instance is a scene; the texts change it, and its pool holds what is near.

Each pool has images of the scene with other texts, and of its neighbours with the right one.
"""

import random
from pathlib import Path

from pipeline.demo import world
from pipeline.demo.build import draw, neighbour, question
from pipeline.demo.world import Edit, Scene
from pipeline.store.files import write_text

TEXTS = 2
"""Wishes an instance."""
QUERIES = 2
"""Images an instance that queries show."""


def write(root: Path, rng: random.Random, queries: int) -> None:
    """Write as many instances as ``queries`` below ``root/icir``."""
    folder = root / "icir"
    pictures: list[tuple[str, Scene]] = []
    asked: list[str] = []
    pooled: list[str] = []

    def add(kind: str, scene: Scene, text: str, instance: str) -> str:
        path = f"{kind}/{instance}/{len(pictures)}.jpg"
        pictures.append((path, scene))
        return f"icir/{path},{text.replace(',', ' and')},{instance}\n"

    for number in range(queries):
        scene, wishes = _instance(rng)
        name = f"scene-{number}"
        for edit, target in wishes:
            for _ in range(QUERIES):
                asked.append(add("query", scene, edit.text, name))
            for _ in range(rng.randint(1, 3)):
                pooled.append(add("database", target, edit.text, name))
            for _ in range(3):
                pooled.append(add("database", neighbour(target, rng), "something else", name))
        for _ in range(4):
            pooled.append(add("database", scene, "as it is", name))
            pooled.append(add("database", neighbour(scene, rng), "as it is not", name))
    write_text(folder / "query_files.csv", "".join(asked))
    write_text(folder / "database_files.csv", "".join(pooled))
    draw([(folder / path, scene, rng.getrandbits(32)) for path, scene in pictures])


def _instance(rng: random.Random) -> tuple[Scene, list[tuple[Edit, Scene]]]:
    """Return a scene with different wishes about it, and what each makes of it."""
    while True:
        scene, edit, target = question(rng, None, world.random_edit)
        wishes = {edit.text: (edit, target)}
        for _ in range(20):
            other = world.random_edit(scene, rng)
            made = other.apply(scene).canonical()
            if made not in (scene, target):
                wishes[other.text] = (other, made)
            if len(wishes) == TEXTS:
                return scene, list(wishes.values())

"""The world as Fashion200K: descriptions that differ by a colour, several images of each."""

import random
from dataclasses import replace
from pathlib import Path

from pipeline.demo import world
from pipeline.demo.build import draw
from pipeline.demo.world import COLOURS, Scene
from pipeline.store.files import write_text

CATEGORIES = ("dress", "top")


def write(root: Path, rng: random.Random, queries: int) -> None:
    """Write ``queries`` queries a category below ``root/Fashion200K``."""
    folder = root / "Fashion200K"
    asked = []
    pictures: list[tuple[str, Scene]] = []
    for category in CATEGORIES:
        lines: list[str] = []

        def add(scene: Scene, category: str = category, lines: list[str] = lines) -> str:
            path = f"women/{category}/{len(pictures)}_0.jpeg"
            pictures.append((path, scene))
            lines.append(f"{path}\t-1.5\t{_described(scene)}\n")
            return path

        for _ in range(queries):
            scene = world.random_scene(rng, 1)
            (group,) = scene.groups
            colour = rng.choice([name for name in COLOURS if name != group.colour])
            target = replace(scene, groups=(replace(group, colour=colour),))
            source = add(scene)
            found = [add(target) for _ in range(rng.randint(1, 3))]
            asked.append(f"{source} {found[0]}\n")
            for _ in range(4):
                add(world.random_scene(rng, 1))
        write_text(folder / "labels" / f"{category}_test_detect_all.txt", "".join(lines))
    write_text(folder / "test_queries.txt", "".join(asked))
    draw([(folder / path, scene, rng.getrandbits(32)) for path, scene in pictures])


def _described(scene: Scene) -> str:
    return scene.text().removeprefix("an ").removeprefix("a ")

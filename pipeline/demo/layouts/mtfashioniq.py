"""Multi-turn FashionIQ's layout: scenes changed two ways a turn, over two to four turns."""

import random
from pathlib import Path
from typing import Any

from pipeline.demo import world
from pipeline.demo.build import draw
from pipeline.demo.world import Scene
from pipeline.store.files import write_json

CATEGORY = "dress"


def write(root: Path, rng: random.Random, queries: int) -> None:
    """Write ``queries`` sessions, and a gallery with three neighbours of every target."""
    made = root / "MT-FashionIQ"
    sessions, scenes = list[dict[str, Any]](), list[Scene]()

    def add(scene: Scene) -> str:
        scenes.append(scene)
        return f"M{len(scenes):07}"

    seen: set[Scene] = set()
    while len(sessions) < queries:
        chain = session(rng, rng.choice((2, 2, 3, 3, 4)), seen)
        names = [add(scene) for scene, _ in chain]
        references = [
            [f"http://example.com/{name}.jpg", texts, name]
            for name, (_, texts) in zip(names[:-1], chain[:-1], strict=True)
        ]
        target = ["http://example.com/target.jpg", names[-1]]
        sessions.append({"target": target, "reference": references})
    for scene in list(scenes):
        for _ in range(3):
            near = world.random_edit(scene, rng).apply(scene).canonical()
            if near not in seen:
                seen.add(near)
                add(near)
    names = [f"M{number + 1:07}" for number in range(len(scenes))]
    write_json(made / "data" / "all.val.json", sessions)
    write_json(made / "image_splits" / "split.all.val.json", sorted(names))
    draw(
        [
            (made / "images" / f"{name}.jpg", scene, rng.getrandbits(32))
            for name, scene in zip(names, scenes, strict=True)
        ]
    )


def session(rng: random.Random, turns: int, seen: set[Scene]) -> list[tuple[Scene, list[str]]]:
    """Return scenes that follow from one another, each with the texts that lead to the next.

    All are held out of training, and none is ``seen`` before; the last has no texts.
    """

    def fits(scene: Scene) -> bool:
        return world.held_out(scene) and scene not in seen

    while not fits(scene := world.random_scene(rng)):
        pass
    chain: list[tuple[Scene, list[str]]] = []
    for _ in range(turns):
        seen.add(scene)
        while True:
            first, second = world.halves_of_edit(scene, rng)
            after = second.apply(first.apply(scene)).canonical()
            if fits(after):
                break
        chain.append((scene, [first.text, second.text]))
        scene = after
    seen.add(scene)
    return [*chain, (scene, [])]

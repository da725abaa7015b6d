"""The world as GeneCIS: objects are halves of Visual Genome's pictures, whole images are COCO's.

The four tasks differ in what a gallery holds; here all of them ask for one change of the scene.
"""

import random
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.datasets.genecis import DILATION, TASKS
from pipeline.demo import world
from pipeline.demo.build import Picture, draw, neighbour, question
from pipeline.demo.world import SIDE, Scene
from pipeline.store.files import write_json

DISTRACTORS = 14
GROWN = 1 + DILATION
BOX = (SIDE * DILATION / GROWN, SIDE / GROWN)
"""Start and length of the box that, dilated, is a whole scene."""


def write(root: Path, rng: random.Random, queries: int) -> None:
    """Write the four tasks below ``root/GeneCIS``."""
    folder = root / "GeneCIS"
    for task in TASKS:
        attribute = task.endswith("attribute")
        numbers = rng.sample(range(1, 600_000), queries * (DISTRACTORS + 2))
        pictures: list[tuple[int, Scene]] = []
        entries = []
        for _ in range(queries):
            scene, edit, target = question(rng, None, world.random_edit)
            distractors = [neighbour(rng.choice((scene, target)), rng) for _ in range(DISTRACTORS)]
            shown = [scene, target, *(one if one != target else scene for one in distractors)]
            own = [numbers[len(pictures) + i] for i in range(len(shown))]
            pictures += zip(own, shown, strict=True)
            places = [_object(n) if attribute else {"val_image_id": n} for n in own]
            entries.append(
                {
                    "condition": edit.text,
                    "reference": places[0],
                    "target": places[1],
                    "gallery": places[2:],
                }
            )
        write_json(folder / f"{task}.json", entries)
        if attribute:
            _draw_pairs(folder / "VG_100K_all", pictures, rng)
        else:
            draw([_picture(folder / "val2017", number, scene, rng) for number, scene in pictures])


def _object(number: int) -> dict[str, Any]:
    """Return the object of a number: the left half of picture n is object 2n, the right 2n + 1."""
    start, length = BOX
    left = SIDE * (number % 2) + start
    return {"image_id": number // 2, "instance_bbox": [left, start, length, length]}


def _picture(folder: Path, number: int, scene: Scene, rng: random.Random) -> Picture:
    return folder / f"{number:012d}.jpg", scene, rng.getrandbits(32)


def _draw_pairs(folder: Path, objects: list[tuple[int, Scene]], rng: random.Random) -> None:
    """Draw objects into the halves of their pictures; a half that has none shows any scene."""
    folder.mkdir(parents=True, exist_ok=True)
    halves: dict[int, dict[int, Scene]] = {}
    for number, scene in objects:
        halves.setdefault(number // 2, {})[number % 2] = scene
    for number, own in halves.items():
        pair = Image.new("RGB", (2 * SIDE, SIDE))
        for side in (0, 1):
            scene = own.get(side) or world.random_scene(rng)
            pair.paste(world.render(scene, rng.getrandbits(32)), (SIDE * side, 0))
        pair.save(folder / f"{number}.jpg", quality=95)

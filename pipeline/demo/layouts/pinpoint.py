"""The world as PinPoint: paraphrases share positives, negatives are one change away from these.

One query in six shows two pictures of its reference scene.
"""

import random
from pathlib import Path
from typing import Any

from pipeline.demo import world
from pipeline.demo.build import draw, neighbour, question
from pipeline.demo.world import Edit, Scene
from pipeline.store.files import storage_errors, write_text

NEGATIVES = 4
FILLING = 5
"""Images a query that have nothing to do with it."""
TWO_IMAGES = 6
"""One query in so many has two images."""


def write(root: Path, rng: random.Random, queries: int) -> None:
    """Write queries, each in two wordings, below ``root/PinPoint``."""
    folder = root / "PinPoint"
    pictures: list[tuple[str, Scene]] = []

    def add(scene: Scene) -> str:
        pictures.append((f"{rng.getrandbits(128):032x}", scene))
        return pictures[-1][0]

    rows: list[dict[str, Any]] = []
    for number in range(queries):
        scene, edit, target = question(rng, None, world.random_edit)
        first = add(scene)
        second = add(scene) if number % TWO_IMAGES == 0 else "None"
        positives = [add(target) for _ in range(rng.randint(2, 4))]
        negatives = [add(neighbour(target, rng)) for _ in range(NEGATIVES)]
        for _ in range(FILLING):
            add(world.random_scene(rng))
        for instruction in _wordings(edit):
            rows.append(
                {
                    "query_id": len(rows) + 1,
                    "query_image_signature": first,
                    "query_image_signature2": second,
                    "instruction": instruction,
                    "positive_candidates": positives,
                    "negative_candidates": [*negatives, first],
                    "query_category": rng.choice(("colour", "shape")),
                }
            )
    write_rows(folder / "pinpoint_licensed.parquet", rows)
    write_text(folder / "index_signatures.txt", "".join(f"{name}\n" for name, _ in pictures))
    draw(
        [
            (folder / "images" / f"{name}.jpg", scene, rng.getrandbits(32))
            for name, scene in pictures
        ]
    )


def _wordings(edit: Edit) -> tuple[str, str]:
    return edit.text, f"the same but {edit.text}"


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as a Parquet file."""
    import pyarrow
    import pyarrow.parquet

    with storage_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)

"""The world as FACap: one text a pair; image names are paths of two collections."""

import random
from pathlib import Path

from pipeline.datasets.facap import FACAP
from pipeline.demo.build import draw
from pipeline.demo.layouts._pairs import pairs
from pipeline.store.files import write_json


def write(root: Path, rng: random.Random, queries: int) -> None:
    """Write ``queries`` pairs a category below ``root/FACap``."""
    folder = root / "FACap"
    for category in FACAP:
        made = pairs(rng, queries)
        names = [
            f"women/{category}/{n}_0.jpeg" if n % 2 else f"deepfashion/{category}-{n}.jpg"
            for n in range(len(made.scenes))
        ]
        rows = [
            {
                "candidate": names[reference],
                "target": names[target],
                "captions": [" and ".join(texts)],
            }
            for reference, target, texts in made.asked
        ]
        write_json(folder / "cir_triplets" / f"{category}_train_triplets.json", rows)
        named = {number for one in made.asked for number in one[:2]}
        draw(
            [
                (folder / "images" / names[n], made.scenes[n], rng.getrandbits(32))
                for n in sorted(named)
            ]
        )

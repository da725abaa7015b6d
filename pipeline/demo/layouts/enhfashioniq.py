"""The world as enhFashionIQ: one text a pair, galleries as of FashionIQ's split files."""

import random
from pathlib import Path

from pipeline.demo.build import CATEGORIES, draw
from pipeline.demo.layouts._pairs import pairs
from pipeline.store.files import write_json


def write(root: Path, rng: random.Random, queries: int) -> None:
    """Write ``queries`` pairs a category below ``root/enhFashionIQ``."""
    folder = root / "enhFashionIQ"
    for category, groups in CATEGORIES.items():
        made = pairs(rng, queries, groups)
        names = [f"{category[0].upper()}{n:05d}" for n in range(len(made.scenes))]
        rows = [
            {
                "reference": f"{names[reference]}.jpg",
                "target": f"{names[target]}.jpg",
                "modification": " and ".join(texts),
            }
            for reference, target, texts in made.asked
        ]
        write_json(folder / "enhfashioniq_triplets" / f"{category}_val_triplets.json", rows)
        write_json(folder / "image_splits" / f"split.{category}.val.json", names)
        places = [folder / "images" / f"{name}.jpg" for name in names]
        seeds = [rng.getrandbits(32) for _ in names]
        draw(list(zip(places, made.scenes, seeds, strict=True)))

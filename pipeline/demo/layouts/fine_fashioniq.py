"""The world as Fine-FashionIQ: one long text a pair, in JSON lines; images in category folders."""

import json
import random
from pathlib import Path

from pipeline.demo.build import CATEGORIES, draw
from pipeline.demo.layouts._pairs import long_text, pairs
from pipeline.store.files import write_json, write_text


def write(root: Path, rng: random.Random, queries: int) -> None:
    """Write ``queries`` pairs a category below ``root/Fine-FashionIQ``."""
    folder = root / "Fine-FashionIQ"
    for category, groups in CATEGORIES.items():
        made = pairs(rng, queries, groups)
        names = [f"{category[0].upper()}{n:05d}" for n in range(len(made.scenes))]
        rows = [
            {"target": names[target], "candidate": names[reference], "finemt": long_text(texts)}
            for reference, target, texts in made.asked
        ]
        lines = "".join(f"{json.dumps(row)}\n" for row in rows)
        write_text(folder / "captions" / f"fiq.fine.{category}.val.jsonl", lines)
        write_json(folder / "image_splits" / f"split.{category}.val.json", names)
        places = [folder / category / f"{name}.jpg" for name in names]
        seeds = [rng.getrandbits(32) for _ in names]
        draw(list(zip(places, made.scenes, seeds, strict=True)))

"""The world as Fine-CIRR: one long text a pair; groups are what was made around a pair."""

import random
from pathlib import Path

from pipeline.demo.build import draw
from pipeline.demo.layouts._pairs import long_text, pairs
from pipeline.store.files import write_json


def write(root: Path, rng: random.Random, queries: int) -> None:
    """Write ``queries`` pairs below ``root/Fine-CIRR``."""
    folder = root / "Fine-CIRR"
    made = pairs(rng, queries)
    names = [f"dev-{n}-0-img0" for n in range(len(made.scenes))]
    rows = [
        {
            "pairid": pair,
            "reference": names[reference],
            "target_hard": names[target],
            "finemt": long_text(texts),
            "img_set": {"id": pair, "members": names[reference : reference + 6]},
        }
        for pair, (reference, target, texts) in enumerate(made.asked)
    ]
    write_json(folder / "fine-cirr" / "finemt_captions" / "cirr.fine.val.json", rows)
    listing = {name: f"./dev/{name}.png" for name in names}
    write_json(folder / "fine-cirr" / "image_splits" / "split.rc2.val.json", listing)
    places = [folder / "dev" / f"{name}.png" for name in names]
    seeds = [rng.getrandbits(32) for _ in names]
    draw(list(zip(places, made.scenes, seeds, strict=True)))

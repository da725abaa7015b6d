"""The world as Shoes: pairs of the eval list, one of the train list, and one across both."""

import random
from pathlib import Path

from pipeline.demo.build import draw
from pipeline.demo.layouts._pairs import EACH, pairs
from pipeline.store.files import write_json, write_text


def write(root: Path, rng: random.Random, queries: int) -> None:
    """Write ``queries`` pairs of the eval list below ``root/Shoes``."""
    folder = root / "Shoes"
    made = pairs(rng, queries + 1)
    names = [f"img_womens_{('boots', 'clogs')[n % 2]}_{n}.jpg" for n in range(len(made.scenes))]
    rows = [
        {
            "ImageName": names[target],
            "ReferenceImageName": names[reference],
            "RelativeCaption": texts[0],
        }
        for reference, target, texts in made.asked
    ]
    rows.append(rows[0] | {"ImageName": names[-1]})
    write_json(folder / "relative_captions_shoes.json", rows)
    cut = len(names) - EACH
    write_text(folder / "eval_im_names.txt", "".join(f"{name}\n" for name in names[:cut]))
    write_text(folder / "train_im_names.txt", "".join(f"{name}\n" for name in names[cut:]))
    places = [
        folder / name.removeprefix("img_").rpartition("_")[0] / str(n % 2) / name
        for n, name in enumerate(names)
    ]
    seeds = [rng.getrandbits(32) for _ in names]
    draw(list(zip(places, made.scenes, seeds, strict=True)))

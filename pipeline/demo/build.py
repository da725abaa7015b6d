"""Writes the rendered world as benchmarks in the official layouts of CIRCO, CIRR and FashionIQ."""

import random
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.demo import world
from pipeline.demo.world import Edit, Scene
from pipeline.installation import WORLD
from pipeline.store.files import lock, storage_errors, write_json
from pipeline.store.identity import fingerprint

CATEGORIES = {"dress": 1, "shirt": 2, "toptee": None}
"""FashionIQ's categories, and how many groups their scenes have (None: either)."""


@dataclass(frozen=True)
class Sizes:
    """How much to make; the defaults are the demo's."""

    circo_queries: dict[str, int] = field(default_factory=lambda: {"val": 200, "test": 400})
    circo_gallery: int = 6000
    cirr_queries: int = 160
    cirr_groups: int = 160
    fashioniq_queries: int = 72
    fashioniq_gallery: int = 600


Picture = tuple[Path, Scene, int]
"""Where a picture goes, what it shows, and the seed of its rendering."""


def build(root: Path, seed: int = 0, sizes: Sizes | None = None) -> Path:
    """Write the three benchmarks below ``root`` unless they are there; return ``root``.

    The same seed and sizes give the same files. They appear all at once or not at all.
    """
    sizes = sizes or Sizes()
    stamp = root / WORLD
    with lock(root.parent / root.name), storage_errors(root):
        for abandoned in root.parent.glob(f".{root.name}.*/"):  # by a process that was killed
            shutil.rmtree(abandoned)
        if stamp.exists():
            return root
        with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}.") as folder:
            made = Path(folder) / root.name
            rng = random.Random(seed)
            pictures = [
                *_circo(made / "CIRCO", rng, sizes),
                *_cirr(made / "CIRR", rng, sizes),
                *_fashioniq(made / "FashionIQ", rng, sizes),
            ]
            draw(pictures)
            write_json(made / stamp.name, {"seed": seed, "sizes": vars(sizes)})
            if root.exists():
                shutil.rmtree(root)
            made.rename(root)
    return root


def draw(pictures: list[Picture]) -> None:
    """Render pictures into their files, in several processes."""
    for folder in {file.parent for file, _, _ in pictures}:
        folder.mkdir(parents=True, exist_ok=True)
    chunks = [pictures[i : i + 250] for i in range(0, len(pictures), 250)]
    if len(chunks) == 1:
        _draw_chunk(pictures)
        return
    with ProcessPoolExecutor() as pool:
        list(pool.map(_draw_chunk, chunks))


def _draw_chunk(pictures: list[Picture]) -> None:
    for file, scene, seed in pictures:
        world.render(scene, seed).save(file, quality=95)


def question(
    rng: random.Random, groups: int | None, make: Callable[[Scene, random.Random], Edit]
) -> tuple[Scene, Edit, Scene]:
    """Return a reference scene, an edit and the target scene, both scenes held out of training."""
    while True:
        scene = world.random_scene(rng, groups)
        edit = make(scene, rng)
        target = edit.apply(scene).canonical()
        if world.held_out(scene) and world.held_out(target) and target != scene:
            return scene, edit, target


def neighbour(scene: Scene, rng: random.Random) -> Scene:
    """Return a scene that one change makes of another."""
    while (other := world.random_edit(scene, rng).apply(scene).canonical()) == scene:
        pass
    return other


def _circo(root: Path, rng: random.Random, sizes: Sizes) -> Iterable[Picture]:
    """Several ground truths a query, and distractors one change away from them."""
    gallery: list[Scene] = []
    asked: dict[str, list[tuple[int, Edit, Scene]]] = {}
    for split, count in sizes.circo_queries.items():
        asked[split] = []
        while len(asked[split]) < count:
            scene, edit, target = question(rng, None, world.random_edit)
            reference = len(gallery)
            gallery.append(scene)
            for change, goal in [(edit, target), *_second_question(scene, target, rng)]:
                asked[split].append((reference, change, goal))
                gallery += [goal] * rng.randint(2, 5)
                gallery += [neighbour(goal, rng) for _ in range(2)]
            gallery += [neighbour(scene, rng) for _ in range(2)]
        del asked[split][count:]
    gallery += [world.random_scene(rng) for _ in range(sizes.circo_gallery - len(gallery))]
    numbers = rng.sample(range(1, 600_000), len(gallery))
    by_scene: dict[Scene, list[int]] = defaultdict(list)
    for scene, number in zip(gallery, numbers, strict=True):
        by_scene[scene].append(number)
    for split, queries in asked.items():
        entries = [
            _circo_entry(i, numbers[reference], gallery[reference], edit, by_scene[target], split)
            for i, (reference, edit, target) in enumerate(queries)
        ]
        write_json(root / "annotations" / f"{split}.json", entries)
    images = root / "COCO2017_unlabeled"
    listing = [{"id": n, "file_name": f"{n:012d}.jpg"} for n in sorted(numbers)]
    identity = fingerprint([scene.text() for scene in gallery])
    info = {"info": {"description": f"rendered world {identity}"}, "images": listing}
    write_json(images / "annotations" / "image_info_unlabeled2017.json", info)
    for scene, number in zip(gallery, numbers, strict=True):
        yield images / "unlabeled2017" / f"{number:012d}.jpg", scene, rng.getrandbits(32)


def _second_question(scene: Scene, first: Scene, rng: random.Random) -> list[tuple[Edit, Scene]]:
    """Return one more edit of the same reference, so that its captions are used twice."""
    for _ in range(50):
        edit = world.random_edit(scene, rng)
        target = edit.apply(scene).canonical()
        if world.held_out(target) and target not in (scene, first):
            return [(edit, target)]
    return []


def _circo_entry(
    number: int, reference: int, scene: Scene, edit: Edit, truths: list[int], split: str
) -> dict[str, Any]:
    entry: dict[str, Any] = {"reference_img_id": reference}
    if split == "val":
        entry["target_img_id"] = truths[0]
    entry |= {
        "relative_caption": edit.text,
        "shared_concept": " and ".join(world.plural(group.shape) for group in scene.groups),
    }
    if split == "val":
        entry["gt_img_ids"] = truths
    entry["id"] = number
    if split == "val":
        entry["semantic_aspects"] = list(edit.aspects)
    return entry


def _cirr(root: Path, rng: random.Random, sizes: Sizes) -> Iterable[Picture]:
    """Groups of six: a scene and five that differ from it by one edit each."""
    pair = 0
    for split, folder in (("val", "dev"), ("test1", "test1")):
        entries: list[dict[str, Any]] = []
        listing: dict[str, str] = {}
        for number in range(sizes.cirr_groups):
            scene, edit, target = question(rng, None, world.random_edit)
            scenes, edits = [scene, target], [edit]
            while len(scenes) < 6:
                change = world.random_edit(scene, rng)
                other = change.apply(scene).canonical()
                if other not in scenes and (len(scenes) > 2 or world.held_out(other)):
                    scenes.append(other)
                    edits.append(change)
            names = [f"{folder}-{number}-{i // 2}-img{i % 2}" for i in range(6)]
            order = rng.sample(range(6), 6)
            members = [names[i] for i in order]
            for name, shown in zip(names, scenes, strict=True):
                listing[name] = f"./{folder}/{name}.png"
                yield root / folder / f"{name}.png", shown, rng.getrandbits(32)
            for place in (1, 2):
                if len(entries) == sizes.cirr_queries:
                    break
                image_set = {"id": number, "members": members, "reference_rank": order.index(0)}
                entry = {
                    "pairid": pair,
                    "reference": names[0],
                    "caption": edits[place - 1].text,
                    "img_set": image_set,
                }
                if split == "val":
                    image_set["target_rank"] = order.index(place)
                    entry |= {"target_hard": names[place], "target_soft": {names[place]: 1.0}}
                entries.append(entry)
                pair += 1
        write_json(root / "cirr" / "captions" / f"cap.rc2.{split}.json", entries)
        write_json(root / "cirr" / "image_splits" / f"split.rc2.{split}.json", listing)


def _fashioniq(root: Path, rng: random.Random, sizes: Sizes) -> Iterable[Picture]:
    """Two changes a query, one in each relative caption; one target."""
    for category, groups in CATEGORIES.items():
        gallery: list[Scene] = []
        places: list[tuple[int, int, list[str]]] = []
        targets: set[Scene] = set()
        while len(places) < sizes.fashioniq_queries:
            texts: list[str] = []

            def both(scene: Scene, rng: random.Random, texts: list[str] = texts) -> Edit:
                first, second = world.halves_of_edit(scene, rng)
                texts[:] = [first.text, second.text]
                return Edit("", (), _both(first, second))

            scene, _, target = question(rng, groups, both)
            if target in targets or scene in targets:
                continue
            targets.add(target)
            places.append((len(gallery), len(gallery) + 1, texts))
            near = [neighbour(target, rng), neighbour(scene, rng)]
            gallery += [scene, target, *(s for s in near if s not in targets)]
        while len(gallery) < sizes.fashioniq_gallery:
            if (scene := world.random_scene(rng, groups)) not in targets:
                gallery.append(scene)
        names = [f"{category[0].upper()}{n:07d}" for n in rng.sample(range(10**7), len(gallery))]
        entries = [
            {"target": names[target], "candidate": names[reference], "captions": texts}
            for reference, target, texts in places
        ]
        write_json(root / "captions" / f"cap.{category}.val.json", entries)
        write_json(root / "image_splits" / f"split.{category}.val.json", sorted(names))
        for name, scene in zip(names, gallery, strict=True):
            yield root / "images" / f"{name}.jpg", scene, rng.getrandbits(32)


def _both(first: Edit, second: Edit) -> Callable[[Scene], Scene]:
    return lambda scene: second.apply(first.apply(scene))

"""A folder that grows and shrinks is indexed by processes that are killed again and again.

``python -m tests.campaigns.growing --rounds 50``: each round adds or removes images, kills the
index at a change of a file, looks at what can be searched then, and lets another process finish.
By single images segments come to be merged, by many the large file is written anew. After every
round the index is what a fresh one of the folder is, and nothing that was on the disk was embedded
again. Linux only.
"""

import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from pipeline import config
from pipeline.own import folder
from pipeline.own.folder import Folder, hash_of
from pipeline.own.loaded import Images
from pipeline.store.segments import SegmentedFeatures, folder_of
from pipeline.store.shards import Stored
from tests.campaigns.crash import (
    ALIKE,
    SMALL_STEPS,
    Stage,
    Tally,
    World,
    disturb,
    finish,
    prepare,
)

FIRST = 40
"""Images that the folder begins with."""
CHANGES = 7
"""Changes of files at which an index is killed, at most."""


class Growing:
    """A folder below ``work``, its index, and each image's feature by a fresh index of all."""

    def __init__(self, world: World, work: Path, rng: random.Random) -> None:
        self.rng = rng
        self.work = work
        self.images = sorted(world.photos.iterdir())
        self.photos = work / "photos"
        steps = [part for text in SMALL_STEPS for part in ("--set", f"runtime.{text}")]
        self.stage = Stage(
            "index",
            ("index", "{work}/photos", "--config", "demo", *steps, "--json"),
            seconds=2,
            changes=CHANGES,
        )
        shutil.copytree(world.photos, self.photos)
        finish(self.stage, work)
        self.expected = self._features()
        shutil.rmtree(work)
        self.photos.mkdir(parents=True)
        for image in self.images[:FIRST]:
            self._put(image)
        finish(self.stage, work)

    @property
    def folder(self) -> Folder:
        return folder.open_folder(self.photos, config.load("demo"), self.work / "cache")

    def _put(self, image: Path) -> None:
        shutil.copy2(image, self.photos)

    def _features(self) -> dict[str, np.ndarray]:
        """What is searched, by image; raises InputError where it is damaged."""
        read = Images(self.folder)
        return {name: read.raw(row).numpy() for name, row in read.row.items()}

    def change(self) -> None:
        """Add or remove some images."""
        there = {file.name for file in self.photos.iterdir()}
        missing = [image for image in self.images if image.name not in there]
        kind = self.rng.choice(["add", "add", "add", "remove", "many"])
        if missing and kind != "remove":
            count = len(missing) if kind == "many" else 1
            for image in self.rng.sample(missing, count):
                self._put(image)
        else:
            count = self.rng.choice([1, 2, 15])
            for name in self.rng.sample(sorted(there), count):
                (self.photos / name).unlink()

    def round(self, tally: Tally) -> None:
        """Change the folder, kill its index once, look, finish it, and look again."""
        self.change()
        changes = disturb(self.stage, self.work, self.rng, by_change=True)
        tally.attacked += changes is not None
        tally.at_work += bool(changes)
        self._compare(tally, self._features(), "after the kill")
        on_disk = Stored(self.folder.feature_file).places.keys()
        wanted = {hash_of(file.read_bytes()) for file in self.photos.iterdir()}
        printed, _ = finish(self.stage, self.work)
        tally.runs += 1
        made = json.loads(printed)[0]["computed"]
        if made != len(wanted - on_disk):
            tally.wrong.append(f"{made} embedded, {len(wanted - on_disk)} were missing")
        found = self._features()
        if found.keys() != wanted:
            tally.wrong.append(f"{len(found)} images are found, not {len(wanted)}")
        self._compare(tally, found, "at the end")
        SegmentedFeatures(self.folder.feature_file).all()
        if list(folder_of(self.folder.feature_file).glob("*.unfinished")):
            tally.wrong.append("an unfinished file is left")

    def _compare(self, tally: Tally, found: dict[str, np.ndarray], when: str) -> None:
        for name, feature in found.items():
            if not np.allclose(feature, self.expected[name], rtol=0, atol=ALIKE):
                tally.wrong.append(f"{when} the feature of {name} is another")


def rounds(world: World, work: Path, count: int, rng: random.Random) -> Iterator[Tally]:
    """Yield the tally so far after each round."""
    growing, tally = Growing(world, work, rng), Tally("index of a folder that grows")
    for _ in range(count):
        growing.round(tally)
        yield tally


@click.command()
@click.option("--rounds", "count", default=30, show_default=True)
@click.option("--seed", default=0, show_default=True, help="of the changes and moments")
def main(count: int, seed: int) -> None:
    """Grow, shrink and kill; exit 1 where anything differs from a fresh index."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="seize-grow-") as place:
        world = prepare(Path(place), ["index"])
        *_, tally = rounds(world, Path(place) / "growing", count, random.Random(seed))
    click.echo(
        f"{tally.runs} rounds in {time.monotonic() - start:.0f} s, {tally.attacked} killed, "
        f"{tally.at_work} of them after the first change of a file; wrong: "
        f"{tally.wrong or 'nothing'}"
    )
    sys.exit(bool(tally.wrong))


if __name__ == "__main__":
    main()

"""How long a warm query and a re-ranking take in a large gallery, model calls excluded.

``python -m tests.benchmarks.query``: the index on disk holds the synthetic features of
``tests.benchmarks.search``; captions and edits come once from the demo's models, then from the
cache. CLIP is stood in for by vectors near the gallery's. Compared in one run with the one product
of a vector and the gallery that any exact search needs. CPU time is what stays comparable where
other programs run beside it.
"""

import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pipeline import config
from pipeline.models import encoders
from pipeline.own.gallery import Gallery
from pipeline.retrieval.methods import METHODS
from pipeline.store.features import write_features
from pipeline.store.jsonl import write_records
from tests.benchmarks.search import data


class StandIn:
    """Gives texts features near one image of the gallery."""

    def __init__(self, gallery: NDArray[np.float32]) -> None:
        self.near = gallery[17]
        self.rng = np.random.default_rng(1)

    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return features (texts, d)."""
        noise = self.rng.normal(size=(len(texts), len(self.near))) / len(self.near) ** 0.5
        features: NDArray[np.float32] = (self.near + noise).astype(np.float32)
        return features

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """Return anything."""
        return torch.zeros(1)

    def images(self, images: torch.Tensor) -> NDArray[np.float32]:
        """Return features (images, d)."""
        return self.texts([""] * len(images))


def milliseconds(run: Callable[[], Any], rounds: int) -> tuple[list[float], list[float]]:
    """Return the elapsed and the CPU times of some runs, rising."""
    elapsed, busy = [], []
    for _ in range(rounds):
        start, start_busy = time.perf_counter(), time.process_time()
        run()
        busy.append(1000 * (time.process_time() - start_busy))
        elapsed.append(1000 * (time.perf_counter() - start))
    return sorted(elapsed), sorted(busy)


@click.command()
@click.option("--images", default=100_000, show_default=True)
@click.option("--width", default=768, show_default=True)
@click.option("--rounds", default=30, show_default=True)
@click.option("--threads", default=1, show_default=True, help="of torch")
@click.option("--all-methods", is_flag=True, help="re-rank by every method too")
def main(images: int, width: int, rounds: int, threads: int, all_methods: bool) -> None:
    """Print a Markdown table."""
    torch.set_num_threads(threads)
    _, _, features = data(1, images, width)
    stand_in: Any = StandIn(features)
    encoders.load = lambda *_: stand_in
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "photos"
        root.mkdir()
        picture = Path(name) / "picture.jpg"
        Image.new("RGB", (640, 480), "red").save(picture)
        gallery = Gallery(root, config.load("demo"), Path(name) / "cache")
        names = [f"{i:064x}" for i in range(images)]
        records = [
            {"path": f"{i:06}.jpg", "size": 1, "mtime_ns": 1, "hash": hash_}
            for i, hash_ in enumerate(names)
        ]
        listing = gallery.folder.listing
        write_records(listing.file, listing.header, records)
        write_features(gallery.folder.feature_file, names, features, {})
        start = time.perf_counter()
        result = gallery.query(picture, "has a dark background")
        first = time.perf_counter() - start
        unit = torch.from_numpy(features)
        vector = unit[0].clone()
        ways: dict[str, Callable[[], Any]] = {
            "one product": lambda: unit @ vector,
            "query": lambda: gallery.query(picture, "has a dark background"),
            "re-rank, other α⁻": lambda: result.rerank(alpha_neg=0.3),
        }
        for method in METHODS if all_methods else ():
            ways[f"re-rank by {method}"] = lambda method=method: result.rerank(method=method)
        for run in ways.values():
            run()
        times = {way: milliseconds(run, rounds) for way, run in ways.items()}
    bare = statistics.median(times["one product"][1])
    print(
        f"{platform.machine()}, {threads} threads, {images:,} images, {width} dimensions, {rounds} "
        f"rounds; first query (index and models loaded) {first:.1f} s\n"
    )
    print("| way | fastest, ms | median, ms | CPU median, ms | ratio of CPU |")
    print("| --- | --: | --: | --: | --: |")
    for way, (elapsed, busy) in times.items():
        middle, work = statistics.median(elapsed), statistics.median(busy)
        print(f"| {way} | {elapsed[0]:.1f} | {middle:.1f} | {work:.1f} | {work / bare:.2f} |")


if __name__ == "__main__":
    main()

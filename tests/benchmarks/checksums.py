"""What checksums, and writing files safely, cost: ``make bench ARGS=checksums``.

The same features with checksums and, as files of earlier versions were, without. A file is opened
anew in every run, so that its rows are checked in each. Seconds are of the processor, one thread.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from pipeline.retrieval.ranking import top_images
from pipeline.retrieval.scoring import Ends, increment_ends
from pipeline.store.features import FeatureFile, write_features
from tests.benchmarks.report import Size, table
from tests.benchmarks.search import best, data

WIDTH, K = 768, 50
SHARD = 64
"""Features of the small file whose writing is measured."""


def processor_seconds(run: Callable[[], Any], rounds: int = 4) -> float:
    """Return the processor's seconds of the cheapest of some runs."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def tables(size: Size) -> Iterator[str]:
    """Measure on 123,403 images (small: 20,000) of 768 dimensions in float32."""
    images = 123_403 if size == "full" else 20_000
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    a, b, gallery = data(100, images, WIDTH)
    ends = increment_ends(torch.from_numpy(b), torch.from_numpy(a), 0.13, 2.1)
    names = [str(row) for row in range(images)]
    with tempfile.TemporaryDirectory() as folder:
        checked, plain = (Path(folder) / f"{name}.safetensors" for name in ("checked", "plain"))
        write_features(checked, names, gallery, {})
        save_plainly(plain, names, gallery)

        def search(file: Path, score: Ends) -> Callable[[], Any]:
            return lambda: top_images(score, FeatureFile(file), K)

        one = ends.map(lambda vectors: vectors[:1])
        rows = [
            (what, *(f"{processor_seconds(search(file, score)):.3f}" for file in (plain, checked)))
            for what, score in (("search of 1 query", one), ("search of 100 queries", ends))
        ]
        whole = processor_seconds(lambda: FeatureFile(checked).damaged())
        rows.append(("checking the whole file", "", f"{whole:.3f}"))
        yield table(
            f"Checksums, {images:,} images, {WIDTH} dimensions, float32; seconds of the processor",
            ("what", "without", "with checksums"),
            rows,
        )
        part = gallery[:SHARD]
        ways = (
            ("as safetensors writes it", lambda: save_plainly(plain, names[:SHARD], part)),
            ("here", lambda: write_features(checked, names[:SHARD], part, {})),
        )
        yield table(
            f"Writing a file of {SHARD} features (here: beside its place, with checksums, brought "
            "to the disk, renamed)",
            ("way", "milliseconds, fastest of 20"),
            [(name, f"{1000 * best(write, 20):.1f}") for name, write in ways],
        )
    torch.set_num_threads(threads)


def save_plainly(file: Path, names: list[str], features: np.ndarray[Any, Any]) -> None:
    """Write a feature file as earlier versions did: without checksums, by safetensors itself."""
    listed = np.frombuffer(json.dumps(names).encode(), np.uint8)
    save_file({"features": features, "names": listed}, file, {"header": "{}"})

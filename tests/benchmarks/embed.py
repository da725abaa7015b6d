"""The embed stage beside its two limits, the model alone and the decoding alone: in one run.

Images are JPEG files of 640 x 480 pixels as COCO has them, with noise so that they decode at the
usual cost. The model is ViT-B-32 with random weights, on one core so that another decodes, then the
demo's small one, for which decoding is the limit; once with ``clip.decode: draft``.
"""

import contextlib
import functools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import psutil
import torch
from PIL import Image
from safetensors.torch import save_file

from pipeline import config, datasets
from pipeline.datasets.circo import IMAGES, LISTING
from pipeline.images.files import open_image
from pipeline.models import encoders
from pipeline.processes import cores
from pipeline.run import Run
from pipeline.stages import embed
from tests.benchmarks.report import Size, table

DEMO_CLIP = config.load("demo").clip.model


def tables(size: Size) -> Iterator[str]:
    """Embed as many images as ``size`` says; loading of models does not count."""
    few, many, rounds = (48, 400, 2) if size == "small" else (192, 3000, 3)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _photographs(root, many)
        save_model("ViT-B-32", root / "model")
        rows = [
            _against_model(_run(root, few, f"local-dir:{root / 'model'}", batch=8), rounds),
            _against_decoding(_run(root, many, DEMO_CLIP, batch=128), rounds),
            _against_decoding(_run(root, many, DEMO_CLIP, batch=128, decode="draft"), rounds),
        ]
    yield table(
        f"The embed stage beside its limit, images a second, best of {rounds}",
        (
            *("limit", "images", "limit alone", "stage", "stage / limit", "the same by CPU time"),
            *("cores busy", "growth, MiB"),
        ),
        rows,
    )


def _against_model(run: Run, rounds: int) -> tuple[object, ...]:
    """Time the model on prepared tensors, then the stage, both with one thread of torch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run = _with_workers(run, max(cores() - 1, 1))
        model = encoders.load(run.config.clip, run.config.runtime)
        files = list(run.dataset.images.values())
        size = run.config.runtime.embed_batch
        pixels = torch.stack([model.prepare(open_image(file)) for file in files])
        model.images(pixels[:size])

        def alone() -> None:
            for start in range(0, len(pixels), size):
                model.images(pixels[start : start + size])

        return _row("model, ViT-B-32, 1 core", run, alone, rounds)
    finally:
        torch.set_num_threads(threads)


def _against_decoding(run: Run, rounds: int) -> tuple[object, ...]:
    """Time decoding and preprocessing by a process a core, whose result is dropped; the stage."""
    encoders.load(run.config.clip, run.config.runtime)
    files = list(run.dataset.images.values())
    with ProcessPoolExecutor(cores()) as pool:
        list(pool.map(_prepare, files[: 16 * cores()]))

        def alone() -> None:
            list(pool.map(_prepare, files, chunksize=16))

        what = f"exact decoding, {cores()} cores; stage: {run.config.clip.decode}"
        return _row(what, run, alone, rounds)


def _prepare(file: Path) -> None:
    _model().prepare(open_image(file))


@functools.cache  # else reading the settings would count for decoding
def _model() -> encoders.Encoder:
    torch.set_num_threads(1)
    return encoders.load(config.load("demo").clip, config.RuntimeConfig(device="cpu"))


def _row(limit: str, run: Run, alone: Callable[[], None], rounds: int) -> tuple[object, ...]:
    """Time ``alone`` and the stage in turn, and take the best of each: others use this machine."""
    count = len(run.dataset.images)
    limits: list[tuple[float, float]] = []
    stages: list[tuple[float, float]] = []
    grown = 0.0
    for turn in range(rounds):
        before, seconds = _usage(), _seconds(alone)
        limits.append((seconds, _usage()[0] - before[0]))
        fresh = replace(run, cache=run.cache / str(turn))
        before, start = _usage(), time.perf_counter()
        report = embed.embed(fresh)[0]
        seconds = time.perf_counter() - start
        busy, held = (after - then for after, then in zip(_usage(), before, strict=True))
        assert report.computed == count
        stages.append((seconds, busy))
        grown = max(grown, held)
    (best, _), (stage, busy) = min(limits), min(stages)
    work = min(one[1] for one in limits) / min(one[1] for one in stages)
    return (
        limit,
        f"{count:,}",
        f"{count / best:.1f}",
        f"{count / stage:.1f}",
        f"{best / stage:.2f}",
        f"{work:.2f}",
        f"{busy / stage:.2f}",
        f"{grown / 2**20:.0f}",
    )


def _usage() -> tuple[float, float]:
    """Return the processor seconds of this process and its children, and bytes held."""
    me = psutil.Process()
    seconds = 0.0
    for process in (me, *me.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
    return seconds, me.memory_info().rss


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _run(root: Path, count: int, model: str, batch: int, decode: str = "exact") -> Run:
    fields = {"clip.model": model, "runtime.embed_batch": batch, "runtime.device": "cpu"}
    fields["clip.decode"] = decode
    dataset = datasets.load("circo", "val", root)
    dataset.images = dict(list(dataset.images.items())[:count])
    return Run(dataset, config.load("demo", fields), root / "cache", root)


def _with_workers(run: Run, count: int) -> Run:
    runtime = run.config.runtime.model_copy(update={"workers": count})
    return replace(run, config=run.config.model_copy(update={"runtime": runtime}))


def _photographs(root: Path, count: int) -> None:
    """Write ``count`` different JPEG files, below 100 kB each, in CIRCO's layout with a query."""
    generator = np.random.default_rng(0)
    folder = root / IMAGES
    folder.mkdir(parents=True)
    for number in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((640, 480))) + generator.normal(0, 8, (480, 640, 1))
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        image.save(folder / f"{number}.jpg", quality=85)
    listing = [{"id": number, "file_name": f"{number}.jpg"} for number in range(count)]
    query = {
        "id": 0,
        "reference_img_id": 0,
        "relative_caption": "is red",
        "target_img_id": 1,
        "gt_img_ids": [1],
        "semantic_aspects": [],
    }
    for file, content in ((LISTING, {"images": listing}), ("annotations/val.json", [query])):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(json.dumps(content))


def save_model(name: str, folder: Path) -> None:
    """Save an open_clip architecture with random weights as a folder that open_clip loads."""
    folder.mkdir()
    weights = open_clip.create_model(name).state_dict()
    save_file(
        {k: v.contiguous() for k, v in weights.items()}, folder / "open_clip_model.safetensors"
    )
    settings = {
        "model_cfg": open_clip.get_model_config(name),
        "preprocess_cfg": {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(settings))

"""Captioning in batches beside one image and one sample a call, with the demo's captioner.

A full-size model would gain more: it is bound by reading its weights, which a batch reads once for
all its rows. That is not measured here.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from pipeline import config, datasets
from pipeline.demo.build import build
from pipeline.images.files import open_image
from pipeline.models.captioners._blip2 import Blip2, NucleusSampler, uniform_numbers
from pipeline.models.captioners.base import prompt_of
from tests.benchmarks.report import Size, table

Captions = list[list[str]]


def tables(size: Size, data_root: Path = Path("data/demo")) -> Iterator[str]:
    """Caption the same images in each way, in turn; the captions must be the same."""
    data_root.parent.mkdir(parents=True, exist_ok=True)
    build(data_root)
    settings = config.load("demo")
    captioner = Blip2(settings.captioner, settings.runtime)
    dataset = datasets.load("circo", "val", data_root)
    ids = list(dict.fromkeys(query.reference for query in dataset.queries))
    ids = ids[: 64 if size == "full" else 16]
    images = [open_image(dataset.images[name]) for name in ids]
    batch = settings.runtime.caption_batch

    def one_call_at_a_time() -> Captions:
        return [
            [_caption_once(captioner, name, image, n) for n in range(settings.captioner.samples)]
            for name, image in zip(ids, images, strict=True)
        ]

    def one_image_at_a_time() -> Captions:
        return _batched(captioner, ids, images, 1)

    def batched() -> Captions:
        return _batched(captioner, ids, images, batch)

    ways: dict[str, Callable[[], Captions]] = {
        "one image and one sample a call": one_call_at_a_time,
        "one image a call, all its samples": one_image_at_a_time,
        f"{batch} images a call, as the stage does": batched,
    }
    found: dict[str, Captions] = {}
    seconds = dict.fromkeys(ways, float("inf"))
    batched()  # warm
    for _ in range(3 if size == "full" else 2):
        for name, way in ways.items():
            start = time.perf_counter()
            found[name] = way()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    first = next(iter(ways))
    yield table(
        f"Captioning {len(ids)} images, {settings.captioner.samples} samples each, the demo's "
        "captioner",
        ("way", "images a second", "against the first", "captions that are the same"),
        [
            (
                name,
                f"{len(ids) / seconds[name]:.2f}",
                f"{seconds[first] / seconds[name]:.1f}",
                _same(found[first], found[name]),
            )
            for name in ways
        ],
    )


def _batched(
    captioner: Blip2, ids: Sequence[str], images: Sequence[Image.Image], size: int
) -> Captions:
    starts = range(0, len(ids), size)
    batches = [captioner.caption(ids[i : i + size], images[i : i + size]) for i in starts]
    return [texts for batch in batches for texts in batch]


@torch.inference_mode()
def _caption_once(captioner: Blip2, name: str, image: Image.Image, sample: int) -> str:
    """Return one caption by transformers' own ``generate`` alone."""
    settings = captioner.config
    inputs: Any = captioner.processor(
        images=image, text=prompt_of(settings), return_tensors="pt"
    ).to(captioner.device, captioner.dtype)
    shape = (settings.samples, settings.max_new_tokens)
    numbers = uniform_numbers(settings.seed, name, shape)[sample : sample + 1]
    tokens = captioner.model.generate(
        **inputs,
        do_sample=True,
        top_k=0,
        max_new_tokens=settings.max_new_tokens,
        min_new_tokens=settings.min_new_tokens,
        logits_processor=[NucleusSampler(numbers, settings.top_p, settings.temperature)],
    )
    new = tokens[:, inputs["input_ids"].shape[1] :]
    text: str = captioner.processor.batch_decode(new, skip_special_tokens=True)[0]
    return text.strip()


def _same(expected: Captions, found: Captions) -> str:
    flat = [list(chain.from_iterable(captions)) for captions in (expected, found)]
    equal = [a == b for a, b in zip(*flat, strict=True)]
    return f"{sum(equal)} of {len(equal)}"

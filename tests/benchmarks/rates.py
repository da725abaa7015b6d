"""What this machine computes a second, for the table that `seize plan` estimates by.

``make bench ARGS=rates``: a product of two matrices, a read of the memory, and the towers of two
architectures with random weights, as operations a second by ``pipeline.models.sizes``; a thread of
the processor, and the GPU where there is one.
"""

import time
from collections.abc import Callable, Iterator

import open_clip
import torch

from pipeline.config import ClipConfig
from pipeline.models import sizes
from tests.benchmarks.report import Size, table

MODELS = {"small": ("ViT-B-32",), "full": ("ViT-B-32", "ViT-L-14", "ViT-bigG-14")}
SIDE = 2048
READ = 1 << 28
"""Bytes of the memory that are read."""
BATCH = {"cpu": 8, "cuda": 256}


def tables(size: Size) -> Iterator[str]:
    """Yield a table a device."""
    threads = torch.get_num_threads()
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        torch.set_num_threads(1)
        with torch.inference_mode():
            rows = list(_rows(device, MODELS[size if device == "cuda" else "small"]))
        torch.set_num_threads(threads)
        name = torch.cuda.get_device_name() if device == "cuda" else "one thread of the processor"
        header = ("what", "items a second", "1e9 operations, or bytes, a second")
        yield table(f"{name}:", header, rows)


def _rows(device: str, models: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    dtype = torch.float16 if device == "cuda" else torch.float32
    one = torch.randn(SIDE, SIDE, dtype=dtype, device=device)
    yield _row("product of matrices", _rate(lambda: one @ one, device), 2 * SIDE**3)
    many = torch.ones(READ // 4, device=device)
    yield _row("read of the memory", _rate(many.sum, device), READ)
    for name in models:
        towers = sizes.towers(ClipConfig(model=name))
        assert towers is not None
        model = open_clip.create_model(name, load_weights=False).to(device, dtype).eval()
        side = open_clip.get_model_config(name)["vision_cfg"]["image_size"]
        batch = BATCH[device]
        images = torch.randn(batch, 3, side, side, dtype=dtype, device=device)
        texts = torch.randint(0, 49_408, (batch, towers[1].tokens), device=device)
        rates = (
            _rate(lambda m=model, x=images: m.encode_image(x), device),  # type: ignore[misc]
            _rate(lambda m=model, x=texts: m.encode_text(x), device),  # type: ignore[misc]
        )
        for what, rate, tower in zip(("images", "texts"), rates, towers, strict=True):
            yield _row(f"{what} by {name}", batch * rate, tower.operations)


def _row(what: str, rate: float, each: float) -> tuple[str, str, str]:
    return what, f"{rate:,.1f}", f"{rate * each / 1e9:,.1f}"


def _rate(work: Callable[[], object], device: str, seconds: float = 2.0) -> float:
    """Return how often a second ``work`` is done, once warm."""
    work()
    count, start = 0, time.perf_counter()
    while True:
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        count += 1
        if (passed := time.perf_counter() - start) > seconds:
            return count / passed

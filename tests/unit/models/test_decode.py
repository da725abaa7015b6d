"""Workers that decode: together they take a bounded memory, and one that dies is told of."""

import multiprocessing
import os
import signal
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from pipeline.config import RuntimeConfig
from pipeline.errors import InputError, SeizeError
from pipeline.images import files as images
from pipeline.images.files import encoded
from pipeline.models import decode as decoding
from pipeline.models.decode import decode

CONTENT = encoded(Image.new("RGB", (50, 50)), 50)


def read(name: str) -> tuple[Path, bytes]:
    return Path(name), CONTENT


def model(preprocess: Any) -> Any:
    return SimpleNamespace(prepare=preprocess, as_stored=False, at_least=None, device="cpu")


@pytest.fixture(params=["threads", "processes"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What workers are: threads as for few images, or processes."""
    monkeypatch.setattr(decoding, "FEW", 0 if request.param == "processes" else 1_000)
    return str(request.param)


@pytest.mark.parametrize(("large", "expected"), [(0, 1), (images.LARGE, 2)])
def test_workers_decode_one_large_image_at_a_time(
    monkeypatch: pytest.MonkeyPatch, kind: str, large: int, expected: int
) -> None:
    monkeypatch.setattr(images, "LARGE", large)
    at_work, most = (multiprocessing.Value("i", 0) for _ in range(2))

    def preprocess(image: Image.Image) -> Tensor:
        with at_work:
            at_work.value += 1
            most.value = max(most.value, at_work.value)
        end = time.monotonic() + 60
        while most.value < expected and time.monotonic() < end:  # wait for the other to begin
            time.sleep(0.001)
        time.sleep(0.05)
        with at_work:
            at_work.value -= 1
        return torch.zeros(1)

    settings = RuntimeConfig(workers=2, embed_batch=2)
    made = list(decode(list("abcdefgh"), read, model(preprocess), settings))
    assert sum(len(part.names) for part in made) == 8
    assert most.value == expected


@pytest.mark.parametrize(
    ("count", "workers", "threads"), [(1, 2, True), (128, 2, True), (129, 2, False)]
)
def test_workers_are_processes_for_many_images_alone(
    count: int, workers: int, threads: bool
) -> None:
    def preprocess(image: Image.Image) -> Tensor:
        return torch.tensor(os.getpid())

    settings = RuntimeConfig(workers=workers, embed_batch=32)
    names = [str(number) for number in range(count)]
    made = list(decode(names, read, model(preprocess), settings))
    assert [name for part in made for name in part.names] == names
    ids = {int(one) for part in made for one in part.prepared}
    assert (ids == {os.getpid()}) == threads


def test_what_is_not_asked_for_is_not_decoded(kind: str) -> None:
    """Not far ahead of the batch in use, and nothing after the last."""
    begun: list[str] = []

    def noted(name: str) -> tuple[Path, bytes]:
        begun.append(name)
        return read(name)

    settings = RuntimeConfig(workers=2, embed_batch=16)
    names = [str(number) for number in range(1000)]
    parts = decode(names, noted, model(lambda image: torch.zeros(1)), settings)
    next(parts)
    parts.close()  # type: ignore[attr-defined]
    assert len(begun) <= 200


def test_warnings_are_as_they_were_after_threads_ignored_them() -> None:
    before = list(warnings.filters)
    settings = RuntimeConfig(workers=3, embed_batch=1)
    names = [str(number) for number in range(150)]
    list(decode(names, read, model(lambda image: torch.zeros(1)), settings))
    assert list(warnings.filters) == before


def test_a_process_that_the_system_ends_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "FEW", 0)

    def preprocess(image: Image.Image) -> Tensor:
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does where memory runs out
        return torch.zeros(1)

    with pytest.raises(SeizeError, match=r"memory ran out.*fewer --workers"):
        list(decode(list("ab"), read, model(preprocess), RuntimeConfig(workers=1)))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["small", "broken", "unread", "no memory"])
def test_only_what_lies_in_the_bytes_is_called_broken(
    monkeypatch: pytest.MonkeyPatch, kind: str, name: str, workers: int
) -> None:
    def read_one(name: str) -> tuple[Path, bytes]:
        if name == "unread":
            raise InputError("The disk fails.")
        return Path(name), b"no image" if name == "broken" else CONTENT

    def no_memory(opened: Image.Image) -> Image.Image:
        raise MemoryError

    if name == "no memory":
        monkeypatch.setattr(images, "_rgb", no_memory)
    settings = RuntimeConfig(workers=workers)
    (made,) = decode([name], read_one, model(lambda image: torch.zeros(1)), settings)
    assert list(made.broken) == ([] if name == "small" else [name])
    lasting = [reason for reason in made.broken.values() if isinstance(reason, images.Broken)]
    assert len(lasting) == (name == "broken")

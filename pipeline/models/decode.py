"""Images decoded and preprocessed by workers, ahead of the model that encodes them.

Workers are threads of this process where images are few: threads neither start nor copy anything,
and Pillow decodes and resizes without Python's lock. For many images they are processes, which do
not wait for that lock at all.
"""

import functools
import hashlib
import math
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pipeline.config import RuntimeConfig
from pipeline.errors import InputError, SeizeError
from pipeline.images.files import Broken, opened_image, share_lock
from pipeline.processes import cores
from pipeline.records import ImageFile

if TYPE_CHECKING:
    from pipeline.models.encoders.base import Encoder

CHUNK = 16
"""Images that a worker decodes before it hands them over."""
FEW = 64
"""Images a worker for which it is not worth starting processes."""
THREADS = 4
"""Threads at most."""


class Decoded(NamedTuple):
    """Some images as the encoder takes them, hashes of their bytes, and broken ones."""

    names: list[str]
    prepared: Tensor | list[Any]
    """Stacked where they are tensors."""
    digests: list[str]
    broken: dict[str, str]
    """By name, why an image could not be read; ``Broken`` where that lies in its bytes."""


Read = Callable[[str], tuple[ImageFile, bytes]]
"""Returns an image's file and bytes by its name, in a worker; raises InputError."""


def decode(
    names: Sequence[str], read: Read, model: "Encoder", runtime: RuntimeConfig
) -> Iterator[Decoded]:
    """Yield the images in order, decoded at least a batch ahead of the one that is asked for.

    A worker hands over few images at a time: there are then one or two batches of them however many
    workers there are. The same holds for what decoding takes: see ``images``. Raises SeizeError if
    the system ends a worker that is a process.
    """
    chunk = min(CHUNK, runtime.embed_batch)
    workers = cores() if runtime.workers is None else runtime.workers
    workers = min(workers, math.ceil(len(names) / chunk))
    ahead = math.ceil(runtime.embed_batch / (chunk * max(workers, 1))) + 1
    images = _ImageFiles(names, read, model, runtime.max_pixels)
    if workers and len(names) <= FEW * workers:
        threads = min(workers, THREADS)
        yield from _by_threads(images, chunk, threads, ahead * workers)
    else:
        yield from _by_processes(images, chunk, workers, ahead, model.device.startswith("cuda"))


def _by_threads(images: "_ImageFiles", chunk: int, workers: int, ahead: int) -> Iterator[Decoded]:
    def some(start: int) -> Decoded:
        stop = min(start + chunk, len(images))
        return _collate([images[place] for place in range(start, stop)])

    pool = ThreadPoolExecutor(workers, "decode")
    waiting: deque[Future[Decoded]] = deque()
    try:
        for start in range(0, len(images), chunk):
            waiting.append(pool.submit(some, start))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _by_processes(
    images: "_ImageFiles", chunk: int, workers: int, ahead: int, pinned: bool
) -> Iterator[Decoded]:
    loader: DataLoader[Any] = DataLoader(
        images,  # type: ignore[arg-type]
        batch_size=chunk,
        num_workers=workers,
        prefetch_factor=ahead if workers else None,
        collate_fn=_collate,
        pin_memory=pinned,
        worker_init_fn=functools.partial(_start, multiprocessing.Lock()) if workers else None,
    )
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise SeizeError(
            "The system ended a process that decodes images, most often since memory ran out. "
            "What was computed is kept. Run the same command again with fewer --workers, or with "
            "--set runtime.max_pixels=50000000 to leave out huge images."
        ) from error


def _start(lock: AbstractContextManager[Any], worker: int) -> None:
    """Prepare a worker: of all workers, one at a time decodes a large image."""
    share_lock(lock)


class _Image(NamedTuple):
    """One image as the encoder takes it and a hash of its bytes, or None and why."""

    name: str
    prepared: Any
    digest: str = ""
    reason: str = ""


class _ImageFiles:
    """Opens and preprocesses images; a broken one yields its reason."""

    def __init__(
        self,
        names: Sequence[str],
        read: Read,
        model: "Encoder",
        max_pixels: int,
    ) -> None:
        self.names = names
        self.read = read
        self.prepare = model.prepare
        self.opened = functools.partial(
            opened_image,
            max_pixels=max_pixels,
            as_stored=model.as_stored,
            at_least=model.at_least,
        )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> _Image:
        name = self.names[index]
        try:
            file, content = self.read(name)
        except InputError as error:
            return _Image(name, None, reason=str(error))
        try:
            with self.opened(file, content) as image:
                prepared = self.prepare(image)
        except InputError as error:
            out_of_memory = isinstance(error.__context__, MemoryError)
            return _Image(name, None, reason=str(error) if out_of_memory else Broken(error))
        return _Image(name, prepared, hashlib.blake2b(content, digest_size=16).hexdigest())


def _collate(images: list[_Image]) -> Decoded:
    good = [image for image in images if image.prepared is not None]
    prepared = [image.prepared for image in good]
    return Decoded(
        names=[image.name for image in good],
        prepared=stacked(prepared),
        digests=[image.digest for image in good],
        broken={image.name: image.reason for image in images if image.prepared is None},
    )


def stacked(prepared: list[Any]) -> Tensor | list[Any]:
    """Return prepared images as an encoder takes them: tensors stacked, all else as they are."""
    tensors = bool(prepared) and isinstance(prepared[0], Tensor)
    return torch.stack(prepared) if tensors else prepared

"""Images decoded and preprocessed by worker processes, ahead of the model that encodes them."""

import functools
import hashlib
import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL.Image import Image
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


class Decoded(NamedTuple):
    """Some images as the encoder takes them, hashes of their bytes, and broken ones."""

    names: list[str]
    prepared: Tensor | list[Any]
    """Stacked where they are tensors."""
    digests: list[str]
    broken: dict[str, str]
    """By name, why an image could not be read; ``Broken`` where that lies in its bytes."""


Read = Callable[[str], tuple[ImageFile, bytes]]
"""Returns an image's file and bytes by its name, in a worker process; raises InputError."""


def decode(
    names: Sequence[str], read: Read, model: "Encoder", runtime: RuntimeConfig
) -> Iterator[Decoded]:
    """Yield the images in order, decoded at least a batch ahead of the one that is asked for.

    A worker hands over few images at a time: shared memory then holds one or two batches however
    many workers there are. The same holds for what decoding takes: see ``images``. Raises
    SeizeError if the system ends a worker.
    """
    chunk = min(CHUNK, runtime.embed_batch)
    workers = cores() if runtime.workers is None else runtime.workers
    workers = min(workers, math.ceil(len(names) / chunk))
    ahead = math.ceil(runtime.embed_batch / (chunk * max(workers, 1))) + 1
    loader: DataLoader[Any] = DataLoader(
        _ImageFiles(names, read, model.prepare, model.as_stored, runtime.max_pixels),  # type: ignore[arg-type]
        batch_size=chunk,
        num_workers=workers,
        prefetch_factor=ahead if workers else None,
        collate_fn=_collate,
        pin_memory=model.device.startswith("cuda"),
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
        prepare: Callable[[Image], Any],
        as_stored: bool,
        max_pixels: int,
    ) -> None:
        self.names = names
        self.read = read
        self.prepare = prepare
        self.as_stored = as_stored
        self.max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> _Image:
        name = self.names[index]
        try:
            file, content = self.read(name)
        except InputError as error:
            return _Image(name, None, reason=str(error))
        try:
            with opened_image(
                file, content, max_pixels=self.max_pixels, as_stored=self.as_stored
            ) as image:
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

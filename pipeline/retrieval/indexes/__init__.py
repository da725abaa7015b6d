"""Indexes of galleries: one file a kind. A further kind is a line in ``KINDS``."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import IndexConfig, RuntimeConfig, resolve_device
from pipeline.errors import ConfigError, nearest

if TYPE_CHECKING:  # they import torch, which a wrong name does not need
    from pipeline.retrieval.indexes.base import Index
    from pipeline.retrieval.ranking import Gallery

Opener = Callable[["Gallery", IndexConfig, Path, RuntimeConfig], "Index"]
"""Returns the index of a gallery that is kept in a file, and builds it where it is not there."""


def _flat(gallery: "Gallery", settings: IndexConfig, file: Path, runtime: RuntimeConfig) -> "Index":
    from pipeline.retrieval.indexes.flat import Flat

    return Flat(gallery, resolve_device(runtime.device))


def _clusters(
    gallery: "Gallery", settings: IndexConfig, file: Path, runtime: RuntimeConfig
) -> "Index":
    from pipeline.retrieval.indexes.clusters import opened

    return opened(gallery, settings, file.with_suffix(".clusters"))


def _hnsw(gallery: "Gallery", settings: IndexConfig, file: Path, runtime: RuntimeConfig) -> "Index":
    from pipeline.retrieval.indexes.faiss import hnsw

    return hnsw(gallery, settings, file.with_suffix(".faiss"))


def _ivf(gallery: "Gallery", settings: IndexConfig, file: Path, runtime: RuntimeConfig) -> "Index":
    from pipeline.retrieval.indexes.faiss import ivf

    return ivf(gallery, settings, file.with_suffix(".faiss"))


def _milvus(
    gallery: "Gallery", settings: IndexConfig, file: Path, runtime: RuntimeConfig
) -> "Index":
    from pipeline.retrieval.indexes.milvus import opened

    return opened(gallery, settings, file.with_suffix(".db"), runtime)


KINDS: dict[str, Opener] = {
    "flat": _flat,
    "clusters": _clusters,
    "faiss-hnsw": _hnsw,
    "faiss-ivf": _ivf,
    "milvus": _milvus,
}

EXACT = ("scan", "flat", "clusters")
"""Kinds that never change a ranking."""


def check(kind: str) -> None:
    """Raise ConfigError with the nearest one if there is no such kind."""
    if kind not in ("scan", *KINDS):
        raise ConfigError(f"There is no index {kind!r}.{nearest(kind, ('scan', *KINDS))}")


def needs_scan(kind: str) -> ConfigError:
    """Return the error about ``kind`` for a method that ranks by places."""
    return ConfigError(
        f"--index {kind} cannot serve --method seize-rank: a place in a ranking depends on the "
        "whole gallery. Leave --index away for it."
    )

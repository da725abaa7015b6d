"""Ranking of features that were computed elsewhere: no dataset, no model."""

import math
from collections.abc import Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipeline.config import resolve_device
from pipeline.datasets.reading import read_json
from pipeline.errors import ConfigError, InputError
from pipeline.retrieval.ranking import top_images
from pipeline.retrieval.scoring import increment_ends, normalise
from pipeline.run import progress
from pipeline.store.features import memory_map
from pipeline.store.files import atomic, storage_errors


class Matrix:
    """A matrix (n, d) of float32 or float16, read in slices and checked as it is read.

    ``name`` is what errors call it. Raises InputError for another shape.
    """

    def __init__(self, source: Any, name: Path | str) -> None:
        self.file, self._source = name, source
        self.shape: tuple[int, int] = source.shape
        if len(self.shape) != 2 or 0 in self.shape:
            raise InputError(f"{name} must hold a matrix (n, d), not one of shape {self.shape}.")

    def rows(self, start: int, stop: int) -> NDArray[np.floating[Any]]:
        """Return rows ``start`` to ``stop``; raises InputError for a value that is not finite."""
        return self._checked(self._source[start:stop], range(start, stop))

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.floating[Any]]:
        """Return the given rows; raises InputError for a value that is not finite."""
        return self._checked(self._source[rows], rows)

    def _checked(
        self, source: NDArray[np.floating[Any]], rows: Sequence[int] | NDArray[np.int64]
    ) -> NDArray[np.floating[Any]]:
        features = np.array(source)
        finite = np.isfinite(features).all(axis=1)
        if not finite.all():
            row = rows[int(finite.argmin())]
            raise InputError(
                f"{self.file}: row {row} is NaN or infinite. Embed it again, or leave it out."
            )
        return features

    def all(self) -> Tensor:
        """Return every row at length 1, float32 (n, d)."""
        return normalise(torch.from_numpy(self.rows(0, self.shape[0])).float())


class Features(Matrix):
    """Such a matrix in a ``.npy`` or ``.safetensors`` file.

    A ``.safetensors`` file holds one tensor, or names one of them ``features``. Raises InputError.
    """

    def __init__(self, file: Path) -> None:
        try:
            source = _open(file)
        except (OSError, ValueError, SafetensorError, EOFError) as error:
            raise InputError(f"{file} is no .npy or .safetensors file: {error}") from None
        super().__init__(source, file)


def _open(file: Path) -> Any:
    if file.suffix == ".npy":
        return _floating(_load(file), file)
    handle = safe_open(file, framework="numpy")
    names = list(handle.keys())  # type: ignore[no-untyped-call]
    name = names[0] if len(names) == 1 else "features"
    if name not in names:
        raise InputError(f"{file} holds {', '.join(names)}: name the matrix to use 'features'.")
    return memory_map(file, name)


def _floating(array: NDArray[Any], name: Path | str) -> NDArray[Any]:
    """Return ``array``; raises InputError where it does not hold floating-point numbers."""
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"{name} holds {array.dtype}: save it as float32 or float16.")
    return array


def _load(file: Path) -> NDArray[Any]:
    """Return the array of a ``.npy`` file, memory-mapped; ValueError or OSError where it is none.

    Pickles are not loaded, and nothing is allocated on the word of a header.
    """
    try:
        array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (SyntaxError, TokenError, TypeError, OverflowError) as error:  # an odd header
        raise ValueError(f"its header cannot be read ({error})") from None
    return array


def read_excluded(file: Path, queries: int, images: int) -> Tensor:
    """Return the gallery rows that each query may not retrieve, int64 (queries, m); -1 for none.

    ``file`` is a ``.npy`` array (queries) or (queries, m), or a JSON list with a row number, a list
    of them, or null for each query. Raises InputError naming the query that is wrong.
    """
    try:
        content = _load(file).tolist() if file.suffix == ".npy" else read_json(file)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{file} cannot be read: {error}") from None
    return _excluded(content, file, queries, images)


def _excluded(content: Any, name: Path | str, queries: int, images: int) -> Tensor:
    if not isinstance(content, list) or len(content) != queries:
        raise InputError(f"{name} must list the rows to exclude for each of {queries} queries.")
    lists = [[] if c is None else c if isinstance(c, list) else [c] for c in content]
    for query, rows in enumerate(lists):
        for row in rows:
            if not isinstance(row, int) or isinstance(row, bool) or not -1 <= row < images:
                raise InputError(
                    f"{name}, query {query}: {row!r} is no row of the gallery "
                    f"(0 to {images - 1}; -1 for none)."
                )
    width = max(1, max(map(len, lists)))
    return torch.tensor([rows + [-1] * (width - len(rows)) for rows in lists])


Rows = Sequence[int | Sequence[int] | None]
"""For each query a gallery row, several of them, or none."""


def rank(
    composed: Any,
    content: Any,
    gallery: Any,
    alpha_pos: float,
    alpha_neg: float,
    top_k: int = 50,
    exclude: "Rows | NDArray[np.integer[Any]] | None" = None,
    device: str = "auto",
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return each query's best images by SEIZE's score: rows int64 and scores float32.

    ``composed`` and ``content`` are (queries, d), ``gallery`` (images, d): float32 or float16
    arrays, or tensors on the CPU; all are normalised here. Both results are (queries, top_k); -1
    and -inf fill up where fewer images are left. ``exclude`` gives, for each query, a row, several
    or None that it may not retrieve. Raises InputError for arrays, ConfigError for numbers.

    >>> import numpy as np, seize
    >>> gallery = np.eye(4, dtype=np.float32)
    >>> rows, scores = seize.rank(gallery[:1] + gallery[1], gallery[:1], gallery, 0.2, 1.0, top_k=2)
    >>> rows.tolist(), (100 * scores).round().tolist()
    ([[1, 0]], [[85.0, 41.0]])
    """
    if not (math.isfinite(alpha_pos) and math.isfinite(alpha_neg)):
        raise ConfigError(f"α⁺ {alpha_pos} and α⁻ {alpha_neg} must be finite numbers.")
    if top_k < 1:
        raise ConfigError(f"top_k is {top_k}: ask for 1 image or more.")
    given = {"composed": composed, "content": content, "gallery": gallery}
    after, before, images = (
        Matrix(_floating(np.asarray(array), name), name) for name, array in given.items()
    )
    _check_alike(after, before, images)
    excluded = None
    if exclude is not None:
        rows = exclude.tolist() if isinstance(exclude, np.ndarray) else list(exclude)
        excluded = _excluded(rows, "exclude", after.shape[0], images.shape[0])
    found, scores = _ranked(after, before, images, (alpha_pos, alpha_neg), top_k, excluded, device)
    return found.numpy(), scores.numpy()


def _check_alike(after: Matrix, before: Matrix, images: Matrix) -> None:
    """Raise InputError unless the matrices belong together."""
    if after.shape != before.shape:
        raise InputError(
            f"{before.file} has shape {before.shape}, {after.file} has {after.shape}: both need a "
            "row for each query, in the same order."
        )
    if images.shape[1] != after.shape[1]:
        raise InputError(
            f"{images.file} has {images.shape[1]} dimensions, {after.file} has {after.shape[1]}: "
            "make both with the same CLIP model."
        )


def _ranked(
    after: Matrix,
    before: Matrix,
    images: Matrix,
    alphas: tuple[float, float],
    k: int,
    excluded: Tensor | None,
    device: str,
) -> tuple[Tensor, Tensor]:
    """Return rows int64 and scores float32, both (queries, k), filled up with -1 and -inf."""
    ends = increment_ends(before.all(), after.all(), *alphas)
    with progress(images.shape[0], 0, "image", "rank") as bar:
        scores, rows = top_images(
            ends,
            images,
            k,
            excluded=excluded,
            device=resolve_device(device),
            advance=bar.update,
        )
    missing = k - scores.shape[1]
    scores = torch.nn.functional.pad(scores, (0, missing), value=float("-inf"))
    rows = torch.nn.functional.pad(rows, (0, missing), value=-1)
    rows[scores == float("-inf")] = -1
    return rows, scores


def rank_files(
    composed: Path,
    content: Path,
    gallery: Path,
    positive: float,
    negative: float,
    k: int,
    exclude: Path | None,
    out: Path,
    device: str = "auto",
) -> tuple[int, int]:
    """Write each query's best images by SEIZE's score to ``out`` (.npz); return how many, of what.

    ``indices`` int64 (queries, k) are gallery rows, ``scores`` float32 (queries, k); -1 and -inf
    fill up where fewer than k images are left. Features are normalised; see ``increment_ends``.
    """
    after, before, images = Features(composed), Features(content), Features(gallery)
    _check_alike(after, before, images)
    excluded = None
    if exclude is not None:
        excluded = read_excluded(exclude, after.shape[0], images.shape[0])
    rows, scores = _ranked(after, before, images, (positive, negative), k, excluded, device)
    with atomic(out) as temporary, storage_errors(out), temporary.open("wb") as stream:
        np.savez(stream, indices=rows.numpy(), scores=scores.numpy())
    return after.shape[0], images.shape[0]

"""The rank variant's best images, of which alone the places are found.

Let n be the images and a an image's place in the ranking by s_after, 0 for the best. It rises from
there by −a to n − 1 − a places, so its score is s_after + something between

    loss(a) = min(0, −α⁻ a, α⁺ (n − 1))    and    gain = max(0, α⁺ (n − 1), −α⁻ (n − 1)).

The m first by s_after have scores of s_m − loss(m − 1) at least, s_m being the last one's s_after.
So whatever has an s_after below that by more than ``gain`` is none of the m best, and what is left
comes before all else in the ranking by s_after, which therefore needs no other image.

A similarity and a row number together are one whole number: sorting those takes a seventh of the
time of a stable sort of rows by similarity.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.retrieval.scoring import RankEnds, top_k

ROUNDING = 1e-6
"""What scores may lose by rounding, of the sizes of their parts: sixteen times float32's unit."""


def best(
    score: RankEnds,
    after: Tensor,
    before: Tensor,
    rows: Tensor,
    k: int,
    excluded: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return the best scores and their rows, (queries, up to k) each.

    ``after`` and ``before`` float32 (queries, n) on the CPU are similarities to the images in
    ``rows`` (n), which rise; ``excluded`` (queries, m) are rows whose score is -inf.
    """

    def one(query: int) -> tuple[Tensor, Tensor]:
        never = None if excluded is None else excluded[query]
        first = k + (0 if never is None else len(never))
        columns = _candidates(score, after[query].numpy(), first)
        own = after[query, columns]
        scores = score.scores(own, places(before[query])[columns] - places(own))
        if never is not None:
            scores[torch.isin(rows[columns], never)] = float("-inf")
        values, found = top_k(scores[None], rows[columns], k)
        return values[0], found[0]

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        values, found = zip(*pool.map(one, range(len(after))), strict=True)
    return torch.stack(values), torch.stack(found)


def scored(score: RankEnds, after: Tensor, before: Tensor, columns: Tensor) -> Tensor:
    """Return one query's scores (m) of the images in ``columns`` (m) from both similarities (n)."""
    risen = places(before) - places(after)
    return score.scores(after[columns], risen[columns])


def _candidates(score: RankEnds, after: NDArray[np.float32], first: int) -> Tensor:
    """Return the columns (m), rising, of what may be among the ``first`` best images."""
    if first >= len(after):
        return torch.arange(len(after))
    most = len(after) - 1
    gain = max(0.0, score.positive * most, -score.negative * most)
    loss = -min(0.0, -score.negative * (first - 1), score.positive * most)
    last = float(np.partition(after, -first)[-first])
    limit = last - (loss + gain) - ROUNDING * (abs(last) + loss + gain)
    return torch.from_numpy(np.flatnonzero(~(after < limit)))


def places(similarity: Tensor) -> Tensor:
    """Return each image's place int32 (n) by ``similarity`` float32 (n), 0 for the best.

    Equal similarities keep their order.
    """
    count = len(similarity)
    bits = (similarity.numpy() + np.float32(0)).view(np.int32)  # of -0.0 those of 0.0
    # Bits of positive numbers rise with them, those of negative ones fall but for the sign.
    rising = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits).astype(np.int64)
    numbers = np.arange(count - 1, -1, -1)  # of equal ones the first is the largest
    order = np.sort((rising << 32) + numbers).astype(np.uint32)
    found = np.empty(count, np.int32)
    found[order] = numbers
    return torch.from_numpy(found).flip(0)

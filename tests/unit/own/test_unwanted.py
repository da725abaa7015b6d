"""What is not wanted is taken off every score, whatever the method."""

import pytest
import torch

from pipeline.own.unwanted import WEIGHT, away_from
from pipeline.retrieval.scoring import RankEnds, increment_ends, normalise

DRAWN = torch.Generator().manual_seed(5)
GALLERY = normalise(torch.randn(30, 8, generator=DRAWN))
CONTENT, COMPOSED = (normalise(torch.randn(2, 8, generator=DRAWN)) for _ in range(2))
UNWANTED = [torch.randn(8, generator=DRAWN) for _ in range(3)]


def penalty() -> torch.Tensor:
    rows = torch.stack([row / row.norm() for row in UNWANTED])
    mean = rows.sum(dim=0) / len(rows)
    return WEIGHT * (GALLERY @ (mean / mean.norm()))


@pytest.mark.parametrize("weights", [(0.13, 2.1), (2.0, 0.5), (0.0, 0.0)])
def test_each_image_loses_its_similarity_to_the_mean_of_what_is_not_wanted(
    weights: tuple[float, float],
) -> None:
    score = increment_ends(CONTENT, COMPOSED, *weights)
    less = away_from(UNWANTED, score).scores(GALLERY)
    torch.testing.assert_close(less, score.scores(GALLERY) - penalty())


def test_lengths_of_raw_features_do_not_matter() -> None:
    score = increment_ends(CONTENT, COMPOSED, 0.1, 1.0)
    longer = [row * factor for row, factor in zip(UNWANTED, (9.0, 0.1, 3.0), strict=True)]
    first, second = away_from(UNWANTED, score), away_from(longer, score)
    torch.testing.assert_close(first.positive, second.positive)


def test_the_rank_variant_compares_both_without_it() -> None:
    score = RankEnds(CONTENT, COMPOSED, 5e-7, 5e-7)
    after, before = away_from(UNWANTED, score).similarities(GALLERY)
    torch.testing.assert_close(after, COMPOSED @ GALLERY.T - penalty())
    torch.testing.assert_close(before, CONTENT @ GALLERY.T - penalty())


def test_nothing_changes_nothing() -> None:
    score = increment_ends(CONTENT, COMPOSED, 0.1, 1.0)
    assert away_from([], score) is score

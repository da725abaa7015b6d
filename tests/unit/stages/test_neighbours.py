"""Neighbours as a plain sort finds them, within categories, past copies."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.stages.neighbours import COPIES, nearest
from pipeline.store.features import FeatureFile, write_features


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> FeatureFile:
    """Forty random features and three copies of the first."""
    features = np.random.default_rng(0).normal(size=(43, 6)).astype(np.float32)
    features[40:] = features[0]
    file = tmp_path_factory.mktemp("features") / "f.safetensors"
    write_features(file, [f"{n:02}" for n in range(43)], features, {})
    return FeatureFile(file)


@given(
    st.dictionaries(st.sampled_from([f"{n:02}" for n in range(43)]), st.sampled_from("xyz")),
    st.integers(1, 50),
    st.sampled_from([0.3, 0.9, 0.999]),
)
def test_they_are_what_sorting_all_cosines_gives(
    gallery: FeatureFile, categories: dict[str, str], count: int, below: float
) -> None:
    unit = torch.nn.functional.normalize(torch.from_numpy(gallery.all()).float())
    cosines = unit @ unit.T
    found = nearest(unit, gallery.names, gallery, categories, count, below)
    for number, name in enumerate(gallery.names):
        own = categories.get(name)
        alike = [
            place
            for place, other in enumerate(gallery.names)
            if place != number and (own is None or categories.get(other) == own)
        ]
        assert (number in found.alone) == (not alike)
        if alike:
            wanted = [n for n in alike if cosines[number, n] <= below]
            wanted.sort(key=lambda n: -float(cosines[number, n]))
            assert found.names[number] == [gallery.names[n] for n in wanted[:count]]


def test_copies_are_looked_past(gallery: FeatureFile) -> None:
    unit = torch.nn.functional.normalize(torch.from_numpy(gallery.all()).float())
    found = nearest(unit[:1], ["00"], gallery, {}, 1, 0.999)
    assert found.names[0][0] not in ("40", "41", "42")
    assert COPIES > 3

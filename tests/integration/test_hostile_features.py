"""Features that are NaN or infinite are named where they are made, and where they are read."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import config
from pipeline.errors import InputError, ModelError
from pipeline.models.verifiers.base import probability
from pipeline.own.gallery import Gallery
from pipeline.run import Run
from pipeline.stages import edit, embed, search
from pipeline.stages.everything import run_stages
from pipeline.store.features import FeatureFile, write_features
from tests.conftest import PROJECT


@pytest.fixture
def overflowing(tmp_path: Path) -> Callable[[str], str]:
    """A function that copies the demo's CLIP with one weight so large that it overflows."""

    def copy(weight: str) -> str:
        folder = shutil.copytree(PROJECT / "data/models/clip", tmp_path / "clip")
        file = folder / "open_clip_model.safetensors"
        weights = load_file(file)
        weights[weight] = torch.full_like(weights[weight], 3e38, dtype=torch.float32)
        save_file(weights, file)
        return f"local-dir:{folder}"

    return copy


def test_an_image_whose_feature_overflows_is_named(
    make_run: Callable[..., Run], overflowing: Callable[[str], str]
) -> None:
    run = make_run(clip__model=overflowing("visual.proj"))
    first = next(iter(run.dataset.images))
    with pytest.raises(ModelError, match=f"NaN or infinite of the image '{first}'"):
        embed.embed(run)
    assert not embed.image_file(run).exists()


def test_a_text_whose_feature_overflows_is_named(
    make_run: Callable[..., Run], overflowing: Callable[[str], str]
) -> None:
    run = make_run(clip__model=overflowing("text_projection"))
    with pytest.raises(ModelError, match="NaN or infinite of the text"):
        run_stages(run)


def test_a_query_whose_feature_overflows_names_it(
    small_world: Path, tmp_path: Path, overflowing: Callable[[str], str]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    images = sorted((small_world / "CIRCO").rglob("*.jpg"))
    shutil.copy(images[0], folder / "a.jpg")
    fields = {"runtime.workers": 0, "clip.model": overflowing("text_projection")}
    gallery = Gallery(folder, config.load("demo", fields), tmp_path / "cache")
    gallery.index()
    with pytest.raises(ModelError, match="NaN or infinite of the text 'has more stars'"):
        gallery.query(images[1], "has more stars")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("kind", ["images", "texts"])
@pytest.mark.parametrize("index", ["scan", "faiss-hnsw"])
def test_search_names_what_is_not_finite(
    make_run: Callable[..., Run], bad: float, kind: str, index: str
) -> None:
    run = make_run(search__index__kind=index)
    run_stages(run)
    file = embed.image_file(run)
    if kind == "texts":
        file = embed.text_file(run)
    shutil.rmtree(file.parent.parent / "indexes", ignore_errors=True)
    search.ranking_file(run).file.unlink()
    known = FeatureFile(file)
    features = known.all().copy()
    # Texts of other methods may be there too; this method reads the edits.
    read = next(iter(edit.read(run).values()))[0] if kind == "texts" else known.names[3]
    features[known.names.index(read), 0] = bad
    write_features(file, known.names, features, known.header)  # with checksums that fit
    with pytest.raises(InputError, match=f"{file.name}.* NaN or infinite") as caught:
        search.search(run)
    assert repr(read) in str(caught.value)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ({"yes": 1e9, "no": 0.0}, 0.5),
        ({"yes": math.nan, "no": -1.0}, 0.0),
        ({"yes": math.nan}, None),
        ({"yes": -math.inf, "no": -math.inf}, None),
    ],
)
def test_a_servers_odd_log_probabilities_make_no_odd_probability(
    tokens: dict[str, float], expected: float | None
) -> None:
    assert probability(tokens) == expected

"""The encoder that a method's name names."""

import pytest

from pipeline import config
from pipeline.config import CLIP, encoder_of, without_encoder
from pipeline.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "encoder", "bare"),
    [
        ("seize", CLIP, "seize"),
        ("seize@clip", CLIP, "seize"),
        ("joint@emb", "emb", "joint"),
        ("seize+verify", CLIP, "seize+verify"),
        ("seize+pdv@a.b-c+verify", "a.b-c", "seize+pdv+verify"),
    ],
)
def test_a_methods_name_names_its_encoder(name: str, encoder: str, bare: str) -> None:
    assert (encoder_of(name), without_encoder(name)) == (encoder, bare)


def test_the_encoder_in_use_is_the_one_that_the_method_names() -> None:
    two = config.load("demo", {"encoders.emb.model": "hf-hub:some/model"})
    assert two.encoder == two.clip
    assert two.with_search(method="sum@emb").encoder.model == "hf-hub:some/model"
    assert two.with_search(method="sum@emb,seize@emb").encoder == two.encoders["emb"]
    assert two.with_search(method="sum@emb,seize").encoder == two.clip  # to be asked one by one
    other = two.encoders["emb"].model_copy(update={"precision": "float16"})
    changed = two.with_search(method="sum@emb").with_encoder(other)
    assert changed.encoder.precision == "float16"
    assert changed.clip == two.clip


def test_an_encoder_that_is_not_there_is_refused_with_the_nearest() -> None:
    two = config.load("demo", {"encoders.emb.model": "x"}).with_search(method="sum@em")
    with pytest.raises(ConfigError, match=r"no encoder 'em'.*'emb'"):
        _ = two.encoder


@pytest.mark.parametrize("name", ["clip", "a,b", "a b", ""])
def test_names_that_no_method_could_hold_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name an encoder"):
        config.load("demo", {"encoders": {name: {"model": "x"}}})

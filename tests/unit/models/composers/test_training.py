"""Composers learn what can be learnt, from whatever triplets have, and are kept with what fits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.errors import ConfigError, InputError, ModelError
from pipeline.models import composers
from pipeline.models.composers import checkpoints
from pipeline.models.composers.base import Given, unit
from pipeline.models.composers.settings import Settings
from pipeline.models.composers.training import Composing, Examples
from pipeline.models.training import loop

D = 16
ENCODER = {"model": "tiny@1234", "pretrained": None, "precision": "auto"}


def examples(n: int = 96, seed: int = 0, tokens: bool = False, **changed: Tensor) -> Examples:
    """Return triplets whose target is the image, turned by a fixed matrix, plus the text."""
    rng = torch.Generator().manual_seed(seed)

    def rows(*shape: int) -> Tensor:
        return unit(torch.randn(*shape, generator=rng))

    turn = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(9)))[0]
    images, texts = rows(n, D), rows(n, D)
    targets = unit(images @ turn + texts)
    own = {
        "given": Given(images, texts, rows(n, 2, D), rows(n, 4, D) if tokens else None),
        "targets": targets,
        "captions": unit(targets + 0.1 * rows(n, D)),
        "sources": rows(n, D),
        "reverse": rows(n, D),
        "labels": torch.arange(n),
        "target_tokens": targets[:, None].expand(-1, 4, -1).clone() if tokens else None,
    }
    return Examples(**{**own, **changed})


def train(out: Path, found: Examples, **chosen: Any) -> Composing:
    settings = Settings(**{"steps": 60, "batch": 32, "rate": 3e-3, "hidden": 32, **chosen})
    task = Composing(found, settings, {"encoder": ENCODER})
    loop.train(task, out, settings)
    return task


def found_first(file: Path, held: Examples) -> float:
    """Return how many queries have their own target before all others."""
    head = checkpoints.load(file)
    with torch.no_grad():
        scores = head(held.given) @ head.targets(held.targets, held.target_tokens).T
    return float((scores.argmax(dim=1) == torch.arange(len(held))).float().mean())


@pytest.mark.parametrize("name", ["gated", "combiner", "two-hop", "entities", "multi-vector"])
def test_a_head_learns_a_rule_and_applies_it_to_new_queries(name: str, tmp_path: Path):
    tokens = name == "multi-vector"
    file = tmp_path / "composer.safetensors"
    train(file, examples(400, tokens=tokens), head=name, steps=100, rate=1e-2)
    held = examples(60, seed=1, tokens=tokens)
    image = float(
        ((held.given.images @ held.targets.T).argmax(1) == torch.arange(60)).float().mean()
    )
    assert found_first(file, held) > image + 0.3
    assert checkpoints.configuration(file)["head"] == name


def test_one_batch_of_all_terms_is_their_sum():
    found = examples(16)
    settings = Settings(batch=16, head="two-hop", hidden=8, steps=1)
    task = Composing(found, settings, {})
    terms = task.losses(task.batch(0))
    assert set(terms) == {"image", "text", "reverse", "prototype"}
    assert all(torch.isfinite(term) and term > 0 for term in terms.values())
    quiet = Composing(found, settings.model_copy(update={"reverse": 0.0, "prototype": 0.0}), {})
    assert set(quiet.losses(quiet.batch(0))) == {"image", "text"}


def test_triplets_without_target_images_are_learnt_from_their_captions(tmp_path: Path):
    none = torch.zeros(96, D)
    file = tmp_path / "composer.safetensors"
    task = train(file, examples(targets=none, reverse=none))
    assert task.aims == ("text",)
    with pytest.raises(InputError, match="have no target image"):
        Composing(examples(targets=none), Settings(aim="image", batch=8), {})
    with pytest.raises(InputError, match="have no target image"):
        Composing(examples(targets=none, captions=none), Settings(batch=8), {})


def test_a_triplet_that_lacks_one_kind_of_target_counts_in_the_other_alone():
    whole = examples(16)
    captions = whole.captions.clone()
    captions[:8] = 0
    task = Composing(
        examples(16, captions=captions), Settings(batch=16, head="sum", reverse=0, hard=False), {}
    )
    terms = task.losses(task.examples)
    kept = task.examples[slice(8, 16)]
    torch.testing.assert_close(terms["text"], task.losses(kept)["text"])


def test_a_stopped_training_ends_in_the_same_weights(tmp_path: Path):
    whole, parts = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    train(whole, examples(), steps=30)
    train(parts, examples(), steps=17)
    train(parts, examples(), steps=30)
    assert whole.read_bytes()[-4000:] == parts.read_bytes()[-4000:]
    first, second = checkpoints.load(whole), checkpoints.load(parts)
    for name, value in first.state_dict().items():
        torch.testing.assert_close(value, second.state_dict()[name], rtol=0, atol=0)


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint(tmp_path: Path):
    out = tmp_path / "composer.safetensors"
    train(out, examples(), steps=20, every=10)
    kept = out.read_bytes()
    broken = examples()
    broken.given.texts[3] = torch.nan
    with pytest.raises(ModelError, match=r"no finite number at step 21\. .*step-000000020"):
        train(out, broken, steps=40, every=10)
    assert out.read_bytes() == kept
    assert (tmp_path / "composer.training" / "step-000000020.safetensors").exists()


def test_a_checkpoint_of_another_encoder_is_refused_with_both_shapes(tmp_path: Path):
    file = tmp_path / "composer.safetensors"
    train(file, examples(), head="sum", steps=2)
    assert checkpoints.load(file, ENCODER, D).sizes == {"d": D}
    assert checkpoints.load(file, {**ENCODER, "precision": "float16"}, D)
    with pytest.raises(ModelError, match=r"\(queries, 16\).*\(queries, 512\)"):
        checkpoints.load(file, ENCODER, 512)
    with pytest.raises(ModelError, match=r"tiny@1234, and these are of other@99"):
        checkpoints.load(file, {"model": "other@99", "pretrained": None}, D)


def test_files_that_are_no_composer_are_named(tmp_path: Path):
    with pytest.raises(ModelError, match="There is no file"):
        checkpoints.load(tmp_path / "none.safetensors")
    torn = tmp_path / "torn.safetensors"
    train(torn, examples(), head="sum", steps=2)
    torn.write_bytes(torn.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"torn\.safetensors is no composer"):
        checkpoints.load(torn)


def test_weights_of_something_else_are_said_to_have_no_configuration(tmp_path: Path):
    file = tmp_path / "clip.safetensors"
    save_file({"visual.proj": torch.zeros(2)}, file)
    with pytest.raises(ModelError, match=r"cannot be read \(it has no configuration\)"):
        checkpoints.configuration(file)


def test_a_head_that_needs_tokens_says_so():
    with pytest.raises(ConfigError, match="needs an encoder with patch tokens"):
        Composing(examples(), Settings(head="multi-vector", batch=8), {})
    assert composers.find("multi-vector").reads_tokens

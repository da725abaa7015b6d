"""BLIP-2 in the layouts that people have on disk: all caption as the complete current one does."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from pipeline import config
from pipeline.errors import ModelError
from pipeline.images.files import two_pictures
from pipeline.models.captioners._blip2 import Blip2, NucleusSampler, uniform_numbers
from tests.conftest import PROJECT

MODEL = PROJECT / "data" / "models" / "captioner"
IDS = ["a", "b", "c"]


def images() -> list[Image.Image]:
    return [*two_pictures(), Image.radial_gradient("L").convert("RGB")]


def captions(folder: Path, **settings: Any) -> list[list[str]]:
    demo = config.load("demo", {"captioner.model": str(folder), "runtime.device": "cpu"})
    captioner = demo.captioner.model_copy(update={"samples": 5, **settings})
    return Blip2(captioner, demo.runtime).caption(IDS, images())


def change(file: Path, **fields: Any) -> None:
    """Set fields of a JSON file; None takes one out."""
    content = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def without_query_tokens(folder: Path) -> None:
    change(folder / "processor_config.json", num_query_tokens=None)


def without_processor_config(folder: Path) -> None:
    """As saved before processors had a file of their own."""
    content = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").unlink()
    image = content["image_processor"] | {"processor_class": "Blip2Processor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(image))


def before_the_image_token(folder: Path) -> None:
    """As saved before images had a token: the vocabulary is the language model's alone."""
    without_processor_config(folder)
    settings = json.loads((folder / "config.json").read_text())
    image = settings["image_token_index"]
    change(
        folder / "config.json",
        image_token_index=None,
        text_config=settings["text_config"] | {"vocab_size": image},
    )
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [t for t in tokenizer["added_tokens"] if t["id"] != image]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    weights = load_file(folder / "model.safetensors")
    for name in [name for name in weights if "embed_tokens" in name or "lm_head" in name]:
        weights[name] = weights[name][:image].clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def before_the_image_token_with_room(folder: Path) -> None:
    """The same where the vocabulary has unused rows, as OPT's 50,272 for 50,265 tokens."""
    without_processor_config(folder)
    change(folder / "config.json", image_token_index=None)


LAYOUTS: list[Callable[[Path], None]] = [
    without_query_tokens,
    without_processor_config,
    before_the_image_token,
    before_the_image_token_with_room,
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("prompt", [None, "two"])
def test_every_layout_captions_as_the_complete_one(
    layout: Callable[[Path], None], prompt: str | None, tmp_path: Path
) -> None:
    folder = tmp_path / "captioner"
    shutil.copytree(MODEL, folder)
    layout(folder)
    expected = captions(MODEL, prompt=prompt)
    assert captions(folder, prompt=prompt) == expected
    assert expected[0] != expected[1] != expected[2]


def test_a_prompt_of_no_words_is_one_too() -> None:
    made = captions(MODEL, prompt="")
    assert all(text for texts in made for text in texts)
    assert made[0] != made[1]


@pytest.fixture(scope="module")
def flan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BLIP-2 whose language model is a T5, with random weights, in the current layout."""
    folder = tmp_path_factory.mktemp("flan")
    for file in MODEL.glob("*.json"):
        shutil.copy(file, folder)
    content = json.loads((MODEL / "config.json").read_text())
    vocabulary = content["text_config"]["vocab_size"]
    settings = transformers.Blip2Config(
        vision_config=content["vision_config"] | {"initializer_range": 0.02},
        qformer_config=content["qformer_config"],
        text_config={
            "model_type": "t5", "vocab_size": vocabulary, "d_model": 64, "d_kv": 16, "d_ff": 128,
            "num_layers": 2, "num_heads": 4, "pad_token_id": 0, "eos_token_id": 2,
            "decoder_start_token_id": 0, "initializer_factor": 3.0,
        },
        num_query_tokens=content["num_query_tokens"],
        image_token_index=content["image_token_index"],
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Blip2ForConditionalGeneration(settings)
    for parameter in model.vision_model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    torch.nn.init.normal_(model.query_tokens)
    torch.nn.init.normal_(model.language_projection.weight)
    (folder / "config.json").unlink()
    (folder / "generation_config.json").unlink()
    model.save_pretrained(folder)
    return folder


def test_an_encoder_decoders_answer_is_whole(flan: Path) -> None:
    """A nucleus of one token is greedy decoding, as transformers' own processor and model do it."""
    made = captions(flan, top_p=1e-9, max_new_tokens=6, samples=1)
    processor = transformers.Blip2Processor.from_pretrained(flan)
    model = transformers.Blip2ForConditionalGeneration.from_pretrained(flan).eval()
    text = ["a photo of"] * 3
    inputs = processor(images=images(), text=text, return_tensors="pt")
    tokens = model.generate(**inputs, do_sample=False, max_new_tokens=6, min_new_tokens=1)
    expected = [text.strip() for text in processor.batch_decode(tokens, skip_special_tokens=True)]
    assert [texts[0] for texts in made] == expected
    assert sum(map(bool, expected)) > 1  # random weights may begin with the end


def test_an_encoder_decoder_may_have_an_older_layout(flan: Path, tmp_path: Path) -> None:
    folder = tmp_path / "flan"
    shutil.copytree(flan, folder)
    without_query_tokens(folder)
    change(folder / "config.json", image_token_index=None)
    made = captions(folder, max_new_tokens=6)
    assert made == captions(flan, max_new_tokens=6)
    assert all(any(texts) for texts in made)


@pytest.mark.parametrize("token", [5000, -1, 3])
def test_an_impossible_image_token_is_refused(token: int, tmp_path: Path) -> None:
    folder = tmp_path / "captioner"
    shutil.copytree(MODEL, folder)
    text = transformers.AutoTokenizer.from_pretrained(MODEL)("a photo of")["input_ids"]
    change(folder / "config.json", image_token_index=text[-1] if token == 3 else token)
    with pytest.raises(ModelError, match=r"config\.json, image_token_index, is"):
        captions(folder)


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "captioner"
    shutil.copytree(MODEL, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {word: i + 1000 for word, i in vocabulary.items()}
    tokenizer["added_tokens"] = []
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ModelError, match=r"tokenizer\.json|cannot be loaded"):
        captions(folder)


def test_a_captioner_that_does_not_see_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "captioner"
    shutil.copytree(MODEL, folder)
    weights = load_file(folder / "model.safetensors")
    weights["language_projection.weight"] = torch.zeros_like(weights["language_projection.weight"])
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="does not see them"):
        captions(folder)


def test_weights_that_lack_a_tensor_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "captioner"
    shutil.copytree(MODEL, folder)
    weights = load_file(folder / "model.safetensors")
    weights.pop("language_projection.weight")
    weights["\x1b]0;owned\x07"] = torch.zeros(1)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 1 of a .*language_projection\.weight"):
        captions(folder)


QUIET = """
from pipeline import config
from pipeline.images.files import two_pictures
from pipeline.models import captioners, encoders, llms, verifiers
settings = config.load("demo", {"captioner.model": %r})
captioner = captioners.load(settings.captioner, settings.runtime)
captioner.caption(["a", "b"], two_pictures())
encoders.load(settings.clip, settings.runtime)
llms.load(settings.llm, settings.runtime)
verifiers.load(settings.verifier, settings.runtime)
"""


def test_models_load_and_run_without_a_word_on_the_terminal(tmp_path: Path) -> None:
    """No deprecation of a library, no report of tensors whose names steer a terminal."""
    folder = tmp_path / "captioner"
    shutil.copytree(MODEL, folder)
    weights = load_file(folder / "model.safetensors")
    weights["\x1b]0;owned\x07"] = torch.zeros(1)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    for options in ((), ("-W", "error::FutureWarning", "-W", "error::DeprecationWarning:pipeline")):
        done = subprocess.run(
            [sys.executable, *options, "-c", QUIET % str(folder)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout + done.stderr == ""


def chosen(scores: torch.Tensor, uniforms: np.ndarray, top_p: float) -> list[int]:
    sampler = NucleusSampler(uniforms, top_p, temperature=1.0)
    kept = sampler(torch.zeros(len(scores), 1), scores)
    assert (torch.isfinite(kept).sum(dim=1) == 1).all()
    return kept.argmax(dim=1).tolist()


@given(st.integers(0, 10_000), st.floats(0.05, 1.0))
@settings(deadline=None)
def test_tokens_come_from_the_smallest_set_that_reaches_top_p(seed: int, top_p: float) -> None:
    rng = np.random.default_rng(seed)
    scores = torch.from_numpy(rng.normal(size=(6, 20)) * 3)
    tokens = chosen(scores, rng.random((6, 1)), top_p)
    for row, token in zip(torch.softmax(scores, dim=1).numpy(), tokens, strict=True):
        more_likely = row[row > row[token]].sum()
        assert more_likely < top_p


def test_frequencies_follow_the_probabilities_within_the_nucleus() -> None:
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    scores = torch.from_numpy(np.log(probabilities)).expand(20_000, 4)
    uniforms = np.random.default_rng(0).random((20_000, 1))
    counts = np.bincount(chosen(scores, uniforms, 0.9), minlength=4) / 20_000
    np.testing.assert_allclose(counts, [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0], atol=0.01)


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    rng = np.random.default_rng(1)
    scores, uniforms = torch.from_numpy(rng.normal(size=(9, 30))), rng.random((9, 1))
    together = chosen(scores, uniforms, 0.9)
    alone = [chosen(scores[i : i + 1], uniforms[i : i + 1], 0.9)[0] for i in range(9)]
    assert together == alone


def test_numbers_are_keyed_by_seed_image_and_sample() -> None:
    base = uniform_numbers(0, "a", (3, 5))
    assert (uniform_numbers(0, "a", (5, 5))[:3] == base).all()
    assert not (uniform_numbers(1, "a", (3, 5)) == base).any()
    assert not (uniform_numbers(0, "b", (3, 5)) == base).any()
    assert len(np.unique(base)) == base.size
    assert base.min() >= 0
    assert base.max() < 1

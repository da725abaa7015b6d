"""Texts to train φ from, their keywords, and a training that resumes to the same weights."""

import json
import random
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from pipeline import config
from pipeline.errors import ConfigError, InputError, ModelError
from pipeline.models.inversion import checkpoints, corpus, prompts, towers
from pipeline.models.inversion.corpus import Corpus
from pipeline.models.inversion.networks import Phi
from pipeline.models.training import loop
from pipeline.recipes.lincir import RECIPE, Lincir, Settings
from tests.conftest import PROJECT
from tests.holding import SEIZE, held_after, kill_once

TEXTS = [
    f"{count} {colour} {shape} on a {place} background"
    for count in ("one", "two", "three", "four")
    for colour in ("red", "blue", "green")
    for shape in ("stars", "hearts")
    for place in ("white", "dotted")
]
QUICK = Settings(steps=6, batch=8, rate=1e-3, dropout=0.1, every=2, masking="words")


@pytest.fixture(scope="module")
def clip() -> Any:
    demo = config.load("demo")
    return towers.load(demo.clip, demo.runtime)


def trained(clip: Any, out: Path, settings: Settings, texts: list[str] = TEXTS) -> loop.Trained:
    loop.check(settings, len(texts), out, "texts")
    encoder = {"model": "demo"}
    task = Lincir(clip.model, clip.tokenizer, encoder, Corpus(texts), settings)
    return loop.train(task, out, settings)


def test_lines_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    long = b"x" * (10 << 20)
    lines = (b"A <PERSON>  with $5", b"", b"   ", b"\xff\xfe caf\xe9", long, b"...", b"a cat\r")
    file.write_bytes(b"\n".join(lines) + b"\n" + b"word " * 1000)
    found = corpus.read(file)
    assert found.texts == ["a person with $5", "a cat"]
    expected = {"empty": 2, "not UTF-8": 1, "too long": 2, "without a word": 1}
    assert found.left_out == expected


def test_a_caption_stages_file_and_json_lines_are_read(tmp_path: Path) -> None:
    file = tmp_path / "captions.jsonl"
    records: list[Any] = [
        {"header": {"stage": "caption"}},
        {"image": "a", "captions": ["one cat", "two cats"]},
        {"text": "a dog"},
        {"image": "b", "reason": "broken"},
        [1],
    ]
    file.write_text("\n".join(map(json.dumps, records)) + "\n{torn")
    found = corpus.read(file)
    assert found.texts == ["one cat", "two cats", "a dog"]
    assert found.left_out == {"without a text": 2, "no JSON": 1}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a cat\n".encode("utf-16"), "UTF-16"),
        ("ein Kätzchen\nçà et là\nañil".encode("latin-1"), "3 not UTF-8"),
        (b"\n\n", "2 empty"),
        (b"...\n", "1 without a word"),
    ],
)
def test_a_corpus_of_no_use_is_named(content: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_bytes(content)
    with pytest.raises(InputError, match=said):
        corpus.read(file)
    with pytest.raises(InputError, match="no file of texts"):
        corpus.read(tmp_path)


def pieces(text: str, seed: object = 0) -> list[str | None]:
    spans = corpus.content_words(text) or [corpus.any_word(text, random.Random(str(seed)))]
    return corpus.masked(text, spans)


def test_keywords_are_whole_words_wherever_they_stand() -> None:
    said = pieces("cat with a t-shirt, and another cat on cats")
    assert said == [None, " with ", None, ", and ", None, " on ", None]
    assert pieces("a red star below a blue heart") == [None, " below ", None]
    assert pieces("concatenate cat") == [None]
    # Nothing but function words: one of them, by the seed.
    assert [piece for piece in pieces("what is it") if piece is None] == [None]


@given(text=st.text(alphabet="ab $*{}'-,.é", min_size=1, max_size=40), seed=st.integers(0, 9))
def test_masking_keeps_all_other_text(text: str, seed: int) -> None:
    if not corpus.WORD.search(text):
        return
    made = pieces(text, seed)
    assert None in made
    at = 0
    for piece in made:
        if piece is not None:
            found = text.find(piece, at)
            assert found >= 0
            at = found + len(piece)


def test_a_training_learns_and_says_how_it_was_made(clip: Any, tmp_path: Path) -> None:
    out = tmp_path / "phi.safetensors"
    settings = Settings(
        steps=60, batch=16, rate=1e-3, dropout=0.0, noise_scale=0.1, every=60, masking="words"
    )
    done = trained(clip, out, settings)
    assert done.computed == done.steps == 60
    record = json.loads((tmp_path / "phi.training" / "training.json").read_text())
    assert record["losses"][-1][1] < 0.7 * record["losses"][0][1]
    assert (tmp_path / "phi.training" / "loss.png").read_bytes().startswith(b"\x89PNG")
    with safe_open(out, framework="pt") as stream:
        told = json.loads(stream.metadata()["configuration"])
    assert (told["d"], told["t"], told["step"], told["masking"]) == (128, 96, 60, "words")
    assert isinstance(checkpoints.load(out, 128, 96), Phi)
    assert trained(clip, out, settings).computed == 0


def test_a_training_goes_on_to_the_same_weights(clip: Any, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    trained(clip, whole, QUICK)
    trained(clip, parts, Settings(**(QUICK.model_dump() | {"steps": 3})))
    assert trained(clip, parts, QUICK).computed == 3
    one, other = load_file(whole), load_file(parts)
    assert all(torch.equal(one[name], other[name]) for name in one)
    other_seed = tmp_path / "other.safetensors"
    trained(clip, other_seed, Settings(**(QUICK.model_dump() | {"seed": 1})))
    assert not torch.equal(one["layers.0.weight"], load_file(other_seed)["layers.0.weight"])


def test_other_settings_do_not_go_on_with_a_training(clip: Any, tmp_path: Path) -> None:
    out = tmp_path / "phi.safetensors"
    trained(clip, out, QUICK)
    with pytest.raises(ConfigError, match=r"begun with rate 0\.001, not 0\.1"):
        trained(clip, out, Settings(**(QUICK.model_dump() | {"rate": 0.1})))
    with pytest.raises(ConfigError, match="6 steps already"):
        trained(clip, out, Settings(**(QUICK.model_dump() | {"steps": 4})))
    with pytest.raises(InputError, match="fewer than a batch"):
        trained(clip, out, QUICK, TEXTS[:3])


def test_a_loss_that_is_no_number_stops_and_names_step_and_checkpoint(
    clip: Any, tmp_path: Path
) -> None:
    out = tmp_path / "phi.safetensors"
    wild = Settings(**(QUICK.model_dump() | {"steps": 40, "rate": 1000.0, "every": 1}))
    with pytest.raises(ModelError, match=r"no finite number at step \d+") as caught:
        trained(clip, out, wild)
    assert not out.exists()
    kept = sorted((tmp_path / "phi.training").glob("step-*.safetensors"))
    assert (str(kept[-1]) if kept else "no checkpoint yet") in str(caught.value)
    for file in kept:
        assert all(value.isfinite().all() for value in load_file(file).values())


def test_a_killed_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS))

    def command(out: Path, program: Sequence[str] = SEIZE) -> list[str]:
        given = "--config demo --steps 30 --batch 8 --every 3 --masking words --device cpu"
        return [
            *program,
            "train",
            "lincir",
            "--texts",
            str(texts),
            "--out",
            str(out),
            *given.split(),
        ]

    killed, whole = tmp_path / "killed.safetensors", tmp_path / "whole.safetensors"
    state = tmp_path / "killed.training" / "state.pt"
    held = command(killed, held_after("state", 1))
    kill_once(state.exists, subprocess.Popen(held, cwd=PROJECT, stderr=subprocess.DEVNULL))
    assert not killed.exists()
    for out in (killed, whole):
        done = subprocess.run(command(out), cwd=PROJECT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    one, other = load_file(killed), load_file(whole)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_published_values_are_the_defaults_and_the_presets() -> None:
    # L: train_phi.py and the README's command: 64 texts on 8 GPUs, 20,000 steps.
    own = Settings()
    published = {"steps": 20_000, "batch": 64 * 8, "rate": 1e-4, "weight_decay": 0.01, "warmup": 0}
    published |= {"noise_scale": 1.0, "dropout": 0.5, "schedule": "constant"}
    assert own.model_dump() | published == own.model_dump()
    for name, model in (("l14", "ViT-L-14"), ("h14", "ViT-H-14"), ("bigg", "ViT-bigG-14")):
        preset = RECIPE.find_preset(f"lincir-{name}")
        assert preset.encoder["clip.model"] == model
        assert RECIPE.chosen({}, f"lincir-{name}").seed == 12345
    assert RECIPE.chosen({"seed": 7}, "lincir-l14").seed == 7
    with pytest.raises(ConfigError, match="Did you mean 'lincir-l14'"):
        RECIPE.chosen({}, "lincir-l15")


def test_a_training_is_lincirs_by_a_bare_loop(clip: Any, tmp_path: Path) -> None:
    """The weights of a seed, by a loop of its own that does what LinCIR's paper says."""
    out = tmp_path / "phi.safetensors"
    trained(clip, out, QUICK)
    torch.manual_seed(QUICK.seed)
    phi, tokenizer = Phi(128, 96, dropout=QUICK.dropout), prompts.Tokenizer(clip.tokenizer)
    adam = torch.optim.AdamW(phi.parameters(), lr=QUICK.rate, weight_decay=0.01)
    order: list[int] = []
    for epoch in range(2):
        order += _shuffled(f"{QUICK.seed} epoch {epoch}")
    for step in range(QUICK.steps):
        pairs = []
        for place in order[step * QUICK.batch : (step + 1) * QUICK.batch]:
            text, tokens, places = TEXTS[place], [], []
            for piece in pieces(text, f"{QUICK.seed} {place}"):
                places += [len(tokens)] if piece is None else []
                tokens += tokenizer.pieces("word" if piece is None else piece)
            whole = prompts.Prompt(tuple(tokenizer.pieces(text)), ())
            pairs.append((whole, prompts.Prompt(tuple(tokens), tuple(places))))
        torch.manual_seed(QUICK.seed * 1_000_003 + step + 1)
        with torch.no_grad():
            target = prompts.encode(clip.model, tokenizer, [one for one, _ in pairs], [])
        noise = torch.rand(len(target), 1) * torch.randn_like(target)
        words = phi(target + noise)
        placed = [w.expand(len(p.places), -1) for w, (_, p) in zip(words, pairs, strict=True)]
        found = prompts.encode(clip.model, tokenizer, [masked for _, masked in pairs], placed)
        adam.zero_grad()
        (found - target).square().mean().backward()  # type: ignore[no-untyped-call]
        adam.step()
    for name, value in load_file(out).items():
        torch.testing.assert_close(value, phi.state_dict()[name], atol=1e-6, rtol=1e-5)


def _shuffled(seed: str) -> list[int]:
    order = list(range(len(TEXTS)))
    random.Random(seed).shuffle(order)
    return order

"""`seize train` as a program's user meets it: options, presets, validation, and bad input."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipeline import recipes
from pipeline.models.inversion.networks import Phi
from pipeline.recipes.base import Recipe
from tests.conftest import PROJECT
from tests.integration.test_cli import seize

TEXTS = [f"{n} {c} {s}" for n in ("one", "two") for c in ("red", "blue") for s in ("star", "heart")]
QUICK = ("--config", "demo", "--steps", "4", "--batch", "4", "--every", "2", "--device", "cpu")


def texts_file(folder: Path, lines: Sequence[str] = TEXTS) -> Path:
    file = folder / "texts.txt"
    file.write_text("\n".join(lines))
    return file


def lincir(folder: Path, *given: str, texts: Path | None = None) -> Result:
    file = texts or texts_file(folder)
    out = ("--out", str(folder / "phi.safetensors"))
    return seize("train", "lincir", "--texts", str(file), *out, *QUICK, *given)


def told(file: Path) -> dict[str, Any]:
    with safe_open(file, framework="pt") as stream:
        found: dict[str, Any] = json.loads(stream.metadata()["configuration"])
    return found


def refused(result: Result, code: int, *said: str) -> None:
    """One line that says what is wrong, and a code that scripts can tell."""
    assert result.exit_code == code, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error")]
    assert len(lines) == 1, result.stderr
    assert all(word in lines[0] for word in said), lines


def test_every_recipe_has_a_command_with_its_settings() -> None:
    listed = seize("train", "--help").output
    for name in recipes.names():
        recipe = recipes.find(name)
        assert isinstance(recipe, Recipe)
        assert recipe.name == name
        assert name in listed
        shown = seize("train", name, "--help").output
        for option in [*recipe.settings.model_fields, *(one.name for one in recipe.sources)]:
            assert f"--{option.replace('_', '-')}" in shown, (name, option)
        for preset in recipe.presets:
            assert recipe.chosen({}, preset).steps


def test_a_checkpoint_that_is_best_on_a_split_is_kept(small_world: Path, tmp_path: Path) -> None:
    data = ("--data-root", str(small_world), "--cache", str(tmp_path / "cache"))
    result = lincir(
        tmp_path, *data, "--validate", "circo:val", "--set", "runtime.workers=0", "--json"
    )
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["metric"] == "circo-val mAP@5"
    assert content["best"] in (2, 4)
    out = tmp_path / "phi.safetensors"
    assert told(out)["step"] == content["best"]
    best = load_file(tmp_path / "phi.training" / f"step-{content['best']:09}.safetensors")
    assert all(torch.equal(value, best[name]) for name, value in load_file(out).items())
    lines = (tmp_path / "phi.training" / "validation.jsonl").read_text().splitlines()
    values = {line["step"]: line["circo-val mAP@5"] for line in map(json.loads, lines)}
    assert values.keys() == {2, 4}
    assert content["value"] == max(values.values())
    # The metric is what a run with that checkpoint measures.
    run = ("--config", "demo", "--dataset", "circo", "--split", "val", *data, "--json")
    chosen = ("--method", "lincir", "--set", f"search.lincir.phi={out}")
    assert seize("embed", *run, *chosen).exit_code == 0
    assert seize("search", *run, *chosen).exit_code == 0
    measured = json.loads(seize("evaluate", *run, *chosen).stdout)
    assert measured["mAP@5"] == pytest.approx(content["value"])


def test_a_preset_sets_what_is_not_given(tmp_path: Path) -> None:
    local = ("--clip", f"local-dir:{PROJECT / 'data' / 'models' / 'clip'}")
    given = ("--preset", "lincir-l14", "--set", "clip.pretrained=null", *local)
    result = lincir(tmp_path, *given, "--masking", "words")
    assert result.exit_code == 0, result.output
    assert told(tmp_path / "phi.safetensors")["seed"] == 12345
    assert told(tmp_path / "phi.safetensors")["rate"] == 1e-4
    refused(lincir(tmp_path, "--preset", "lincir-l15"), 2, "lincir-l14")


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        (("--rate", "0"), 2, "rate"),
        (("--dropout", "1"), 2, "dropout"),
        (("--masking", "nltk"), 2, "masking"),
        (("--masking", "spacy:/nowhere"), 2, "/nowhere"),
        (("--batch", "9"), 3, "8 texts are fewer than a batch of 9"),
        (("--precision", "float16"), 2, "needs a GPU"),
        (("--validate", "circo"), 2, "DATASET:SPLIT"),
        (("--validate", "cirko:val"), 2, "Did you mean 'circo'"),
    ],
)
def test_options_that_cannot_be_used_are_one_line(
    given: tuple[str, ...], code: int, said: str, tmp_path: Path
) -> None:
    refused(lincir(tmp_path, *given), code, said)
    assert not (tmp_path / "phi.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"\n \n\n", "3 empty"),
        ("a.txt", "ein Kätzchen\n".encode("utf-16"), "UTF-16"),
        ("a.txt", "çà et là\nañil".encode("latin-1"), "2 not UTF-8"),
        ("a.txt", b"x" * (10 << 20), "1 too long"),
        ("a.txt", b"...\n!?", "2 without a word"),
        ("a.jsonl", b'{"caption": "a cat"}\n', "1 without a text"),
        ("a.jsonl", b"a cat\n", "1 no JSON"),
    ],
)
def test_a_corpus_of_no_use_is_one_line(
    name: str, content: bytes, said: str, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    refused(lincir(tmp_path, texts=file), 3, name, said)
    refused(lincir(tmp_path, texts=tmp_path / "none.txt"), 3, "is no file")


def test_what_is_left_out_of_a_corpus_is_counted(tmp_path: Path) -> None:
    file = texts_file(tmp_path, [*TEXTS, "", "x" * 3000, "!"])
    assert lincir(tmp_path, texts=file).exit_code == 0
    record = json.loads((tmp_path / "phi.training" / "training.json").read_text())
    assert record["left_out_of_the_corpus"] == {"empty": 1, "too long": 1, "without a word": 1}


def test_weights_of_another_backbone_are_refused_before_a_search(
    small_world: Path, tmp_path: Path
) -> None:
    save_file(Phi(64, 96).state_dict(), tmp_path / "other.safetensors")
    run = ("--config", "demo", "--dataset", "circo", "--split", "val", "--method", "lincir")
    data = ("--data-root", str(small_world), "--cache", str(tmp_path / "cache"))
    phi = ("--set", f"search.lincir.phi={tmp_path / 'other.safetensors'}")
    refused(seize("run", *run, *data, *phi), 5, "64 x 96", "128 x 96")


def test_help_and_bad_input_need_no_torch() -> None:
    program = (
        "import sys; from pipeline.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    for given in (["train", "--help"], ["train", "lincir", "--help"], ["train", "lincir"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *given], cwd=PROJECT, capture_output=True, text=True
        )
        assert done.stdout.splitlines()[-1] == "False", given

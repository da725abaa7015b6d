"""The command line as a user meets it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from pipeline.cli import main
from tests.conftest import PROJECT

STAGES = ("plan", "caption", "edit", "embed", "search", "evaluate", "submit", "run")


def seize(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize("command", [*STAGES, "report", "demo"])
def test_help_explains_and_gives_an_example(command: str) -> None:
    result = seize(command, "--help")
    assert result.exit_code == 0
    assert command == "demo" or f"Example: seize {command}" in result.output
    assert command == "demo" or "--data-root" in result.output


def test_python_m_pipeline_is_seize_and_help_needs_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['seize', '--help']\n"
        "import atexit; atexit.register(lambda: print('torch' in sys.modules))\n"
        "import runpy; runpy.run_module('pipeline', run_name='__main__')"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, check=True
    )
    assert "caption → edit → embed → search" in result.stdout
    assert result.stdout.rstrip().endswith("False")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--config", "demos"), 2, "Did you mean 'demo'"),
        (("--config", "nowhere.yaml"), 2, "nowhere.yaml does not exist"),
        (("--dataset", "ciro"), 2, "Did you mean 'circo'"),
        (("--split", "vall"), 2, "Did you mean 'val'"),
        (("--data-root", "/nonexistent"), 3, "Is --data-root right?"),
        (("--set", "clip.patch=3"), 2, "clip.patch"),
        (("--captions", "0"), 2, "captioner.samples"),
    ],
)
def test_wrong_options_end_in_one_line(
    small_world: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    good = ("--config", "demo", "--dataset", "circo", "--data-root", str(small_world))
    result = seize("caption", *good, *arguments)
    assert result.exit_code == code
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("Error: ")
    assert message in line


def options(small_world: Path, tmp_path: Path, *more: str) -> list[str]:
    return [
        "--config", "demo", "--dataset", "circo", "--split", "val", "--workers", "0",
        "--data-root", str(small_world), "--cache", str(tmp_path / "cache"),
        "--submissions", str(tmp_path / "submissions"), *more,
    ]  # fmt: skip


def test_stages_one_by_one_each_naming_the_one_before(
    small_world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = options(small_world, tmp_path, "--limit", "3")
    for stage, before in (("edit", "caption"), ("search", "embed"), ("submit", "search")):
        result = seize(stage, *given)
        assert result.exit_code == 4
        assert f"Run: seize {before} {' '.join(given)}" in result.stderr
    reports = {}
    for stage in ("caption", "edit", "embed", "search", "submit"):
        result = seize(stage, *given, "--json")
        assert result.exit_code == 0, result.stderr
        assert f"[{stage} circo-val] reads" in caplog.text
        assert f"[{stage} circo-val] writes" in caplog.text
        reports[stage] = json.loads(result.stdout)[-1]
    assert reports["caption"]["computed"] == 2  # three queries over two reference images
    result = seize("evaluate", *given, "--json")
    metrics = json.loads(result.stdout)
    assert 0 <= metrics["mAP@5"] <= 100
    submission = reports["submit"]["writes"]
    again = json.loads(seize("evaluate", *given, submission, "--json").stdout)
    assert again == metrics
    result = seize("evaluate", *options(small_world, tmp_path), submission)
    assert result.exit_code == 3
    assert "9 of 12 queries" in result.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--clip", "ViT-B-33"), "Did you mean"),
        (("--clip", "ViT-B-32"), "set --pretrained to one of"),
        (("--clip", "ViT-B-32", "--pretrained", "opnai"), "Did you mean 'openai'"),
        (("--clip", "local-dir:/nonexistent"), "cannot be loaded"),
    ],
)
def test_wrong_clip_names(
    small_world: Path, tmp_path: Path, more: tuple[str, ...], message: str
) -> None:
    result = seize("embed", *options(small_world, tmp_path, *more))
    assert result.exit_code == 5
    assert message in result.stderr.replace("\n", " ")


def test_wrong_captioner_prompt_llm_and_server(small_world: Path, tmp_path: Path) -> None:
    given = options(small_world, tmp_path, "--limit", "1")
    result = seize("caption", *given, "--captioner", "/nonexistent/blip2")
    assert result.exit_code == 5
    assert "blip2 cannot be loaded" in result.stderr
    assert seize("caption", *given).exit_code == 0
    result = seize("edit", *given, "--prompt", "seise")
    assert result.exit_code == 2
    assert "Did you mean 'seize'" in result.stderr
    result = seize("edit", *given, "--llm", "transformers:/nonexistent/llm")
    assert result.exit_code == 5
    result = seize("edit", *given, "--llm", "some-model", "--llm-url", "http://127.0.0.1:9/v1")
    assert result.exit_code == 5
    assert "There is no server at http://127.0.0.1:9/v1" in result.stderr
    assert "seize serve-llm some-model" in result.stderr


def test_config_show_prints_what_config_takes(tmp_path: Path) -> None:
    shown = seize("config", "show", "paper-bigg", "--alpha-pos", "1")
    assert shown.exit_code == 2  # α belongs to a dataset, so it is an option of the stages
    shown = seize("config", "show", "paper-bigg")
    file = tmp_path / "mine.yaml"
    file.write_text(shown.output)
    assert yaml.safe_load(shown.output)["clip"]["model"] == "ViT-bigG-14"
    assert seize("config", "show", str(file)).output == shown.output
    assert "Needs:" in seize("config", "list").output


def test_prompts_show_renders_a_sample() -> None:
    output = seize("prompts", "show", "seize", "--caption", "a cat", "--relative-caption", "flies")
    assert "Image Content: a cat\nInstruction: flies" in output.output
    assert "seize" in seize("prompts", "list").output


def test_demo_ends_with_metrics_submissions_and_a_picture(
    small_world: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    shutil.copytree(small_world, tmp_path / "data" / "demo")
    result = seize("demo", "--folder", str(tmp_path), "--workers", "0")
    assert result.exit_code == 0, result.stderr
    for text in ("circo-val", "cirr-val", "fashioniq-val", "recall_subset@1", "Contact sheet"):
        assert text in result.stdout
    assert len(list((tmp_path / "submissions").glob("c*-test*-seize-*[!g].json"))) >= 3
    assert (tmp_path / "outputs" / "demo-circo-val.png").stat().st_size > 10_000

"""The command line as a user meets it."""

import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from pipeline import datasets
from pipeline.cli import main, study
from pipeline.cli.main import FAMILY
from pipeline.cli.options import Grouped
from pipeline.cli.overrides import EVERY, OVERRIDES, FieldOption
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


def test_options_of_fields_are_shown_in_groups() -> None:
    lines = seize("query", "--help").output.splitlines()
    titles = [line.removesuffix(":") for line in lines if line.endswith(":") and line[0] != " "]
    assert titles == ["Options", "Captions", "Edits", "Encoder", "Search", "This machine"]
    for words, command in commands(main):
        options = [one for one in command.params if isinstance(one, FieldOption)]
        assert not options or isinstance(command, Grouped), words
        shown = command.get_help(click.Context(command)).splitlines()
        for option in options:
            start = f"  {option.opts[0]} "  # an example before may begin a line so, too
            place = max(n for n, line in enumerate(shown) if line.startswith(start))
            above = [line for line in shown[:place] if line.endswith(":") and line[0] != " "]
            assert above[-1] == f"{option.title}:", (words, option.opts)


def test_every_command_is_where_the_command_line_looks_for_it() -> None:
    for family in {*FAMILY.values()}:
        module = importlib.import_module(f"pipeline.cli.{family}")
        named = {name for name, its in FAMILY.items() if its == family}
        assert {command.name for command in module.COMMANDS} == named


@pytest.mark.parametrize(("given", "meant"), [("qury", "query"), ("embd", "embed")])
def test_a_misspelt_command_is_answered_with_the_nearest(given: str, meant: str) -> None:
    result = seize(given)
    assert result.exit_code == 2
    assert f"'{meant}'" in result.stderr


@pytest.mark.parametrize("command", ["run", "evaluate", "tune", "doctor"])
def test_help_lists_every_benchmark_there_is(command: str) -> None:
    shown = "".join(seize(command, "--help").output.split())  # names are broken at hyphens, too
    assert f"--dataset TEXT {datasets.names()}".replace(" ", "") in shown
    assert "genecis" in datasets.names()


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
    assert seize("config", "show").output == seize("config", "show", "paper-l14").output
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
    page, report = (shlex.split(line) for line in result.stdout.splitlines() if "--open" in line)
    assert page[1] == "app"
    assert len(list(Path(page[2]).glob("*.jpg"))) == 150  # the pictures of its CIRCO
    main.get_command(click.Context(main), "app").make_context("app", page[2:])  # its options exist
    assert report[1] == "report"
    file = tmp_path / "report.html"
    shown = seize(*report[1:-1], "--out", str(file))
    assert shown.exit_code == 0, shown.stderr
    assert "pdv" in file.read_text(encoding="utf-8")


def test_a_log_file_has_messages_and_errors_with_times_and_without_secrets(
    small_world: Path, tmp_path: Path
) -> None:
    file = tmp_path / "logs" / "seize.log"
    given = options(small_world, tmp_path, "--limit", "1")
    program = [sys.executable, "-m", "pipeline", "--log-file", str(file)]
    asked = ["--llm", "m", "--llm-url", "http://me:hunter2@127.0.0.1:9/v1"]
    subprocess.run([*program, "caption", *given], capture_output=True, check=True)
    failed = subprocess.run([*program, "edit", *given, *asked], capture_output=True, text=True)
    assert failed.returncode == 5
    lines = file.read_text(encoding="utf-8").splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ ", line) for line in lines)
    assert any("INFO [caption circo-val] writes" in line for line in lines)
    assert "ERROR" in lines[-1]
    assert failed.stderr.splitlines()[-1].removeprefix("Error: ") in lines[-1]
    assert "hunter2" not in "".join(lines) + failed.stderr
    wrong = subprocess.run([*program, "edit", "--nothing"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "No such option" in file.read_text(encoding="utf-8").splitlines()[-1]


def test_a_log_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = seize("--log-file", str(tmp_path / "file" / "seize.log"), "config", "list")
    assert result.exit_code == 6
    assert "Cannot write --log-file" in result.stderr


def empty_folder(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (("--method", "sieze"), 2, "Did you mean 'seize'"),
        (("--method", "seize,ldre"), 2, "Several are taken by embed, search"),
        (("--method", "all"), 2, "Several are taken by embed, search"),
        (("--method", "roles"), 2, "needs edits with roles"),
        (("--method", "roles+verify"), 2, "needs edits with roles"),
        (("--edits-per-caption", "3"), 2, "at temperature 0"),
        (("--index", "fais-hnsw"), 2, "Did you mean 'faiss-hnsw'"),
        (("--index", "flat", "--method", "seize-rank"), 2, "cannot serve --method seize-rank"),
        (("--prompt", "seise"), 2, "Did you mean 'seize'"),
        (("--shared-concept",), 2, "does not use {{ shared_concept }}"),
        (("--method", "seize+verify", "--question", "captoin"), 2, "Did you mean 'caption'"),
        (("--method", "seize+verify", "--verifier", "transformers:/no/vlm"), 5, "no such folder"),
        (("--captioner", "/no/blip2"), 5, "The captioner /no/blip2 cannot be loaded"),
        (("--captioner", "{empty}"), 5, "it has neither config.json"),
        (("--captioner", "imported:opt"), 4, "No captions were imported"),
        (("--llm", "transformers:/no/llm"), 5, "The LLM /no/llm cannot be loaded"),
        (("--llm", "transformers:{empty}"), 5, "it has neither config.json"),
        (("--llm", "imported:gpt"), 4, "No edits were imported"),
        (("--serve", "a-model", "--vllm-bin", "/no/vllm"), 2, "There is no vllm at /no/vllm"),
        (("--clip", "local-dir:/no/clip"), 5, "The encoder /no/clip cannot be loaded"),
        (("--clip", "ViT-B-33"), 5, "Did you mean"),
        (("--clip", "ViT-B-32", "--pretrained", "opnai"), 5, "Did you mean 'openai'"),
        (("--device", "cuda:99"), 2, "--device cuda:99 cannot be used here"),
        (("--device", "nonsense"), 2, "--device nonsense cannot be used here"),
        (("--submissions", "{file}"), 6, "is no folder. Choose another with --submissions"),
        (("--submissions", "{file}/below"), 6, "is no folder. Choose another with --submissions"),
        (("--cache", "{file}/below"), 6, "is no folder. Choose another with --cache"),
    ],
)
def test_run_refuses_before_the_first_stage_computes(
    small_world: Path, tmp_path: Path, more: tuple[str, ...], code: int, message: str
) -> None:
    file = tmp_path / "file"
    file.touch()
    places = {"{empty}": str(empty_folder(tmp_path / "empty")), "{file}": str(file)}
    for name, place in places.items():
        more = tuple(argument.replace(name, place) for argument in more)
    result = seize("run", *options(small_world, tmp_path, "--limit", "1", *more))
    assert result.exit_code == code, result.output
    assert message in result.stderr.replace("\n", " ")
    (line,) = result.stderr.strip().splitlines()  # a stage would have said what it reads
    assert line.startswith("Error: ")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("run {} --prompt seise", 2, "Did you mean 'seize'"),
        ("run {} --edits-per-caption 2", 2, "at temperature 0"),
        ("run {} --captioner /no/blip2", 5, "cannot be loaded"),
        ("run {} --clip local-dir:/no/clip", 5, "cannot be loaded"),
        ("run {} --alpha-pos nan", 2, "finite"),
        ("caption {} --captioner /no/blip2", 5, "cannot be loaded"),
        ("edit {} --llm transformers:/no/llm", 5, "cannot be loaded"),
        ("embed {} --data-root /no/data", 3, "Is --data-root right?"),
        ("search {} --split tset", 2, "Did you mean 'test'"),
        ("verify {} --question captoin", 2, "Did you mean 'caption'"),
        ("evaluate {} --split test", 3, "no ground truth"),
        ("compare {} --split test", 3, "no ground truth"),
        ("tune {} --split test", 2, "Weights are tuned on val"),
        ("tune {} --grid negative=nan", 2, "--grid"),
        ("index /no/photos --config demo", 3, "is not a folder"),
        ("index . --config demo --clip local-dir:/no/clip", 5, "cannot be loaded"),
        ("query /no/a.png darker --gallery . --config demo", 3, "/no/a.png does not exist"),
        ("query /no/a.png darker --gallery /no/photos --config demo", 3, "is not a folder"),
        ("query darker --gallery . --config demo --prompt seise", 2, "Did you mean"),
        ("query darker --gallery pipeline --config demo --where colour=red", 3, "no field"),
        ("query darker --gallery pipeline --config demo --where width>x", 3, "is no number"),
        ("app /no/photos --config demo", 3, "is not a folder"),
        ("prompts try seise --caption a --text b --config demo", 2, "Did you mean 'seize'"),
        ("table --dataset ciro", 2, "Did you mean 'circo'"),
        ("import /no/file.json --dataset circo --split val", 3, "does not exist"),
        ("check /no/file.json --dataset circo --split val {root}", 3, "does not exist"),
    ],
)
def test_wrong_input_is_answered_without_torch(
    small_world: Path, tmp_path: Path, arguments: str, code: int, message: str
) -> None:
    given = " ".join(options(small_world, tmp_path))
    words = arguments.format(given, root=f"--data-root {small_world}").split()
    program = (
        "import sys, atexit; from pipeline.cli import main\n"
        "atexit.register(lambda: print('torch' in sys.modules))\n"
        f"main({words!r}, prog_name='seize')"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=PROJECT
    )
    assert result.returncode == code, result.stderr
    assert message in result.stderr
    assert result.stdout.strip() == "False"


@pytest.mark.parametrize(
    "grid",
    [
        *("negative", "negative=", "=1,2", "negative=1,,2", "negative=a"),
        *("negative=nan", "negative=1,inf", "negative=0:1e999:1", "negative=0:inf:1"),
        *("negative=3:0:0.25", "negative=0:3:-0.25", "negative=0:3:0", "negative=0:3:nan"),
        *("negative=0:1", "negative=0:1:0.1:2", "negative=0:1e9:1e-9"),
    ],
)
def test_a_grid_that_is_none_is_refused_in_the_parser(grid: str) -> None:
    result = seize("tune", "--dataset", "circo", "--grid", grid)
    assert result.exit_code == 2
    assert f"Invalid value for '--grid': {grid!r} is not PARAMETER=a,b,c" in result.stderr


def test_grids_are_lists_and_ranges_either_way() -> None:
    kind = next(p for p in study.tune.params if p.name == "grids").type
    assert kind.convert("negative=0,0.5,2", None, None) == ("negative", [0, 0.5, 2])
    assert kind.convert("negative=0:1:0.25", None, None) == ("negative", [0, 0.25, 0.5, 0.75, 1])
    assert kind.convert("negative=1:0:-0.5", None, None) == ("negative", [1, 0.5, 0])
    assert kind.convert("drops=5:5:1", None, None) == ("drops", [5])


RECOMMENDING = (
    "edit {run} --retry-failed",
    "edit {run} --serve a-model --vllm-bin /no/vllm --serve-arg=--x --serve-timeout 9",
    "search {run}",
    "verify {run} --method seize+verify --candidates 2 --retry-failed",
    "verify {run} --set search.method=seize+verify --serve a-model --vllm-bin /no/vllm",
    "evaluate {run} --method ldre",
    "evaluate {run} --method seize+verify --candidates 2 --json",
    "submit {run} --json",
    "compare {run} --method seize,cirevl,seize+verify --candidates 2 --out {out}/table.txt "
    "--baseline cirevl --metric mAP@5 --resamples 100 --format latex",
    "compare {run} --json",
    "tune {run} --grid negative=0,1 --metric mAP@5 --out {out}",
    "tune {run} --method seize+verify --no-early-stop --candidates 2 --grid weight=0,1 --out {out}",
    "report {run} --out {out}/x.html --compare sdr --top 5 --queries 1 --megabytes 9 --mixed",
    "export {run} --out {out}",
)
"""Commands that need what others make, with options that those do not have."""


def recommended(message: str) -> list[str]:
    """The words of the command that an error recommends, which ends its line."""
    return shlex.split(message.strip().splitlines()[-1].partition("Run: seize ")[2])


@pytest.mark.parametrize("command", RECOMMENDING)
def test_recommended_commands_can_be_parsed(
    small_world: Path, tmp_path: Path, command: str
) -> None:
    given = options(small_world, tmp_path, "--limit", "1", "--set", "llm.seed=1")
    result = seize(*command.format(run=shlex.join(given), out=tmp_path).split())
    assert result.exit_code == 4, result.output
    name, *words = recommended(result.stderr)
    told = main.get_command(click.Context(main), name)
    assert told is not None
    context = told.make_context(name, list(words))
    assert context.params["limit"] == 1
    assert context.params["settings"] == ("llm.seed=1",)
    assert words.count("--method") <= 1


def test_recommended_commands_lead_to_what_was_asked_for(small_world: Path, tmp_path: Path) -> None:
    given = options(small_world, tmp_path, "--limit", "1")
    followed = []
    for command in reversed(RECOMMENDING):
        if "--serve" in command:
            continue
        asked = command.format(run=shlex.join(given), out=tmp_path).split()
        steps = [asked]
        while steps:
            assert len(steps) < 9, steps
            result = seize(*steps[-1])
            if result.exit_code == 4:
                steps.append(recommended(result.stderr))
                followed.append(steps[-1][0])
            else:
                assert result.exit_code == 0, (steps, result.output)
                steps.pop()
    assert set(followed) == {"caption", "edit", "embed", "search", "verify"}


def test_the_index_that_is_recommended_is_the_one_that_is_asked_for(
    small_world: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "my photos"
    photos.mkdir()
    for file in sorted((small_world / "CIRCO").rglob("*.jpg"))[:3]:
        shutil.copy(file, photos)
    options = (
        "--config", "demo", "--cache", str(tmp_path / "my cache"), "--set", "clip.target_pad=1.5",
        "--captions", "2", "--top-k", "2", "--alpha-pos", "0",
    )  # fmt: skip
    result = seize("app", str(photos), "--no-index", "--port", "0", *options)
    assert result.exit_code == 4
    assert seize(*recommended(result.stderr)).exit_code == 0
    ask = ("query", str(next(photos.iterdir())), "is red", "--gallery", str(photos), *options)
    result = seize(*ask, "--json")
    assert result.exit_code == 0, result.stderr
    assert len(json.loads(result.stdout)["images"]) == 2


@pytest.mark.parametrize(
    ("command", "ignored"),
    [
        ("index", "--captioner --llm --llm-url --prompt --method --top-k --alpha-pos --seed"),
        ("query", "--workers --strict"),
        ("app", "--workers --strict"),
        *((c, "--index --verifier --question --candidates") for c in ("index", "query", "app")),
        *((c, "--milvus-url --dataset --shared-concept") for c in ("index", "query", "app")),
        ("prompts try", "--clip --verifier --index --method --top-k --prompt --workers"),
    ],
)
def test_options_that_would_be_ignored_are_refused(command: str, ignored: str) -> None:
    for option in ignored.split():
        result = seize(*command.split(), "x", option, "x")
        assert result.exit_code == 2
        assert f"No such option '{option}'" in result.stderr


def commands(group: click.Group, *names: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with the words that call it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, *names, name)
        else:
            yield (*names, name), command


NUMBERS = [
    pytest.param(parameter, id=" ".join((*words, parameter.opts[0])))
    for words, command in commands(main)
    for parameter in command.params
    if isinstance(parameter.type, click.types.IntParamType | click.types.FloatParamType)
    # Those of a configuration's fields are tested with it, those of the page with the page.
    if parameter.opts[0] not in OVERRIDES or words == ("rank",)
    if words != ("app",) or parameter.opts[0].startswith("--alpha")
]


@pytest.mark.parametrize("parameter", NUMBERS)
def test_every_numeric_option_has_a_range(parameter: click.Parameter) -> None:
    wrong = ["nan", "inf", "-inf", "1e999", "1,5", ""]
    if not parameter.opts[0].startswith("--alpha"):  # any finite number
        wrong += ["-1", "1" + "0" * 30]
    for value in wrong:
        with pytest.raises(click.BadParameter):
            parameter.type_cast_value(click.Context(main), value)


def test_options_of_fields_are_held_to_their_ranges(small_world: Path, tmp_path: Path) -> None:
    for option in EVERY:
        field, kind, _ = OVERRIDES[option]
        for value in ("-1", "9" * 30, *(("nan", "inf") if kind is float else ())):
            if kind in (int, float):
                result = seize("run", *options(small_world, tmp_path), option, value)
                assert result.exit_code == 2, result.output
                assert f"{field}: Input should be" in result.stderr


def test_rank_takes_finite_weights_alone(tmp_path: Path) -> None:
    files = [f"{tmp_path}/{name}.npy" for name in "abc"]
    for file in files:
        np.save(file, np.ones((2, 4), np.float32))
    named = zip(("--composed", "--content", "--gallery"), files, strict=True)
    given = [word for pair in named for word in pair]
    given += ["--alpha-pos", "nan", "--alpha-neg", "1", "--out", f"{tmp_path}/out.npz"]
    result = seize("rank", *given)
    assert result.exit_code == 2
    assert "Invalid value for '--alpha-pos': 'nan' is not a finite number" in result.stderr


def test_a_wholly_wrong_file_is_not_told_of_query_by_query(
    small_world: Path, tmp_path: Path
) -> None:
    file = tmp_path / "wrong.json"
    file.write_text(json.dumps({f"{name}": [] for name in range(1000, 1100)}))
    given = ["check", str(file), "--dataset", "circo", "--split", "val"]
    given += ["--data-root", str(small_world)]
    lines = seize(*given).output.splitlines()
    errors = json.loads(seize(*given, "--json").stdout)["errors"]
    assert len(errors) > 20
    assert lines[:-1] == [f"Error: {error}" for error in errors[:20]]
    assert lines[-1] == f"Error: and {len(errors) - 20} more, which --json has all"

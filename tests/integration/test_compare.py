"""The table of methods, its intervals, and tuning: from rankings and features on disk."""

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.config import load
from pipeline.datasets import triplets
from pipeline.demo import layouts
from pipeline.errors import ConfigError, MissingStageError
from pipeline.models.prompts.edit import ROLES
from pipeline.pages.report import charts
from pipeline.retrieval import methods
from pipeline.run import Run
from pipeline.stages import checks, search, submit
from pipeline.stages.evaluate import evaluate
from pipeline.stages.everything import run_stages
from pipeline.store.files import write_json
from pipeline.study import compare, protocol, tune
from pipeline.study.significance import contributions
from tests.conftest import PROJECT
from tests.integration.test_cli import seize
from tests.variables import without

MakeRun = Callable[..., Run]

LACKING = {*ROLES, *methods.lacking(load("demo"), "circo")}
EVERY = [
    name
    for name in methods.names()
    if not (
        (methods.reads(name) | methods.clues_of(name).keys()) & LACKING or methods.by_model(name)
    )
]


@pytest.fixture(params=["circo", "cirr", "fashioniq"])
def searched(request: pytest.FixtureRequest, make_run: MakeRun) -> Run:
    """A run whose rankings by every method are there."""
    run_stages(make_run(request.param))
    run = make_run(request.param, search__method="all")
    assert [report.computed for report in search.search(run)] == [len(run.queries)] * len(EVERY)
    return run


def table(
    run: Run,
    rows: list[compare.Row],
    baseline: str,
    form: compare.Format,
    width: int | None = None,
) -> str:
    found = compare.compare(run.dataset, rows, baseline, resamples=200)
    settings = compare.check_protocols(rows, mixed=False)
    return compare.render(run.dataset, found, rows, settings, baseline, (), form, width)


def test_the_table_has_every_method_and_the_evaluate_stages_figures(searched: Run) -> None:
    rows = compare.rows_of_run(searched)
    assert [row.name for row in rows] == EVERY
    found = compare.compare(searched.dataset, rows, "mean-ensemble", resamples=300)
    assert (found["low"] <= found["value"] + 1e-9).all()
    assert (found["value"] <= found["high"] + 1e-9).all()
    for name in EVERY:
        expected = evaluate(searched.with_method(name))
        own = found[found["method"] == name].set_index("metric")
        assert own["value"].to_dict() == pytest.approx(expected)
    base = found[found["method"] == "mean-ensemble"]
    assert (base[["difference", "difference_low", "difference_high"]] == 0).all(axis=None)
    headline = found[found["metric"] == searched.dataset.headline].set_index("method")
    assert base[["p", "p_holm"]].isna().all(axis=None)
    others = found[found["method"] != "mean-ensemble"]
    assert others[["p", "p_holm"]].notna().all(axis=None)
    assert (others["p"] <= others["p_holm"]).all()
    assert (others.loc[others["difference"].abs() < 1e-9, "p"] == 1).all()
    value, difference = headline["value"], headline["difference"]
    assert difference["text"] == pytest.approx(value["text"] - value["mean-ensemble"])


def test_every_format_holds_the_same_figures(searched: Run) -> None:
    rows = compare.rows_of_run(searched)
    headline = searched.dataset.headline
    csv = pd.read_csv(io.StringIO(table(searched, rows, "seize", "csv")))
    chosen = csv[(csv["method"] == "text") & (csv["metric"] == headline)].iloc[0]
    assert bool(chosen["exclude_reference"]) is True  # how it was made is in every line
    for form in ("text", "markdown", "latex"):
        text = table(searched, rows, "seize", form)
        (line,) = [line for line in text.splitlines() if line.lstrip("| ").startswith("text ")]
        assert f"{chosen['value']:.2f}" in line
        assert f"{chosen['difference']:+.2f}" in line
        assert "Protocol: " in text
    assert r"\toprule" in table(searched, rows, "seize", "latex")
    for width in (80, 120):
        _fits(
            table(searched, rows, "seize", "text"),
            table(searched, rows, "seize", "text", width),
            width,
        )


def _fits(wide: str, narrow: str, width: int) -> None:
    """Assert that a table for a terminal has all that the wide one tells."""
    assert max(map(len, wide.splitlines())) > 120
    assert max(map(len, narrow.splitlines())) <= width
    shown, note = narrow.rsplit("\n\n", 1)
    for name in EVERY:
        (line,) = (line for line in wide.splitlines() if line.startswith(f"{name} "))
        cells = [line for line in shown.splitlines() if line.startswith(f"{name} ")]
        told = " ".join([*" ".join(cells).split(), *note.split()])
        for cell in re.split(" {2,}", line.strip()):
            assert cell in told or cell == protocol.NONE


def test_a_terminal_says_how_wide_it_is_and_a_pipe_has_no_width() -> None:
    words = [sys.executable, "-m", "pipeline", "table", "--dataset", "circo"]
    words += ["--backbone", "L/14"]
    own, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    here = without("COLUMNS")
    with subprocess.Popen(words, stdout=terminal, stdin=terminal, env=here, cwd=PROJECT) as running:
        os.close(terminal)
        said = b""
        with contextlib.suppress(OSError):  # how a pseudo-terminal ends
            while more := os.read(own, 65_536):
                said += more
    os.close(own)
    assert running.returncode == 0
    shown = said.decode().replace("\r\n", "\n")
    piped = subprocess.run(words, capture_output=True, text=True, env=here, cwd=PROJECT, check=True)
    table, whole = (text.partition("Sources:")[0] for text in (shown, piped.stdout))
    assert max(map(len, table.splitlines())) <= 80 < max(map(len, whole.splitlines()))
    assert set(whole.replace("-", "").split()) == set(table.replace("-", "").split())


def test_predictions_of_other_systems_are_a_row_and_equal_files_differ_by_nothing(
    searched: Run,
) -> None:
    one = searched.with_method("seize")
    rows = compare.rows_of_run(one)
    files = list(submit.files(one).values())
    rows.append(compare.row_of_files(one.dataset, "uploaded", files))
    rows.append(compare.row_of_files(one.dataset, "ranked", [search.ranking_file(one).file]))
    found = compare.compare(one.dataset, rows, "seize", resamples=100)
    assert (found[["difference", "difference_low", "difference_high"]] == 0).all(axis=None)
    compare.check_protocols(rows, mixed=False)


def test_rankings_of_different_protocols_are_refused_unless_told(make_run: MakeRun) -> None:
    run = make_run("fashioniq")
    run_stages(run)
    union = make_run("fashioniq", dataset__gallery="union", search__exclude_reference=False)
    union = Run(
        type(run.dataset)("val", run.dataset.root.parent, "union"),
        union.config, run.cache, run.submissions,
    )  # fmt: skip
    run_stages(union)
    smaller = [len(union.dataset.galleries[name]) for name in union.dataset.galleries]
    whole = [len(run.dataset.galleries[name]) for name in run.dataset.galleries]
    assert all(a < b for a, b in zip(smaller, whole, strict=True))
    file = search.ranking_file(union).file
    rows = [*compare.rows_of_run(run), compare.row_of_files(run.dataset, "other", [file])]
    with pytest.raises(ConfigError, match=r"gallery: seize \"split\", other \"union\""):
        compare.check_protocols(rows, mixed=False)
    found = compare.compare(run.dataset, rows, "seize", resamples=100)
    settings = compare.check_protocols(rows, mixed=True)
    text = compare.render(run.dataset, found, rows, settings, "seize", (), "text")
    assert "FashionIQ split" in text.splitlines()[0]
    (own,) = [line for line in text.splitlines() if line.startswith("seize ")]
    (other,) = [line for line in text.splitlines() if line.startswith("other ")]
    for word in ("masked", "original", str(whole[0])):
        assert word in own
        assert word not in other
    for word in ("kept", "union", "unknown"):  # which images another gallery held is not known
        assert word in other


def test_the_best_row_is_the_baseline_where_asked(searched: Run) -> None:
    rows = compare.rows_of_run(searched)
    dataset, headline = searched.dataset, searched.dataset.headline
    values = {row.name: evaluate(searched.with_method(row.name)) for row in rows}
    best = compare.baseline_of(dataset, rows, "best")
    assert values[best][headline] == max(own[headline] for own in values.values())
    metric = list(values[best])[-1]
    best = compare.baseline_of(dataset, rows, "best", metric)
    assert values[best][metric] == max(own[metric] for own in values.values())
    with pytest.raises(ConfigError, match="none is the best"):
        compare.baseline_of(dataset, rows, "best", "recall@7")
    assert compare.baseline_of(dataset, rows, None) == rows[0].name
    found = compare.compare(dataset, rows, "best", resamples=100, permutations=100)
    assert (found[found["metric"] == headline]["difference"] <= 0).all()


@pytest.mark.parametrize("name", ["circo", "cirr", "fashioniq"])
def test_what_queries_add_to_a_metric_sums_to_it(make_run: MakeRun, name: str) -> None:
    dataset = make_run(name).dataset
    rng = np.random.default_rng(0)
    lists = {
        q.id: list(rng.permutation([i for i in dataset.galleries[q.gallery] if i != q.reference]))
        for q in dataset.queries
    }
    predictions = {kind: lists for kind in dataset.kinds[:1]}
    if len(dataset.kinds) > 1:
        predictions[dataset.kinds[1]] = {q.id: list(q.group) for q in dataset.queries}
    shares = contributions(dataset, dataset.per_query(predictions))
    assert {metric: own.sum() for metric, own in shares.items()} == pytest.approx(
        dataset.evaluate(predictions)
    )


def test_a_missing_ranking_names_the_methods_to_search(make_run: MakeRun) -> None:
    run = make_run()
    run_stages(run)
    both = make_run(search__method="seize,ldre")
    with pytest.raises(MissingStageError, match=r"seize search --config demo .* --method ldre$"):
        compare.rows_of_run(both)
    with pytest.raises(ConfigError, match="Several are taken by embed, search"):
        evaluate(both)
    with pytest.raises(ConfigError, match="Did you mean 'seize'"):
        compare.compare(run.dataset, compare.rows_of_run(run), "sieze")


@pytest.mark.parametrize(
    ("dataset", "method", "grid"),
    [
        ("circo", "seize", {"positive": [0.0, 0.13, 3.0], "negative": [-1.0, 0.0, 2.1]}),
        ("cirr", "seize", {"positive": [0.0, 0.22], "negative": [0.0, 1.0]}),
        ("fashioniq", "ldre", {"drops": [1, 4, 9], "temperature": [0.02, 0.5]}),
        ("cirr", "seize-rank", {"positive": [0.0, 1e-3], "negative": [5e-7]}),
    ],
)
def test_every_cell_is_what_search_and_evaluate_give(
    make_run: MakeRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dataset: str,
    method: str,
    grid: dict[str, list[float]],
) -> None:
    if dataset != "circo":  # there, rounding by other shapes swaps two images 6e-8 apart
        monkeypatch.setattr(tune, "QUERIES", 5)
    run = make_run(dataset, search__method=method)
    run_stages(run)
    tuned = tune.tune(run, grid, tmp_path / "out")
    sections = methods.find(method).weights
    places = {name: f"search__{sections[name].name}__{dataset}__{name}" for name in grid}
    assert len(tuned.table) == np.prod([len(values) for values in grid.values()])
    for cell in tuned.table.to_dict(orient="records"):
        fields = {places[name]: cell[name] for name in grid}
        one = make_run(dataset, search__method=method, **fields)
        search.search(one)
        assert evaluate(one) == pytest.approx({k: v for k, v in cell.items() if k not in grid})
    assert tuned.value == tuned.table[run.dataset.headline].max()
    assert len(pd.read_csv(tuned.csv)) == len(tuned.table)
    assert tuned.picture is not None
    assert Image.open(tuned.picture).size[0] > 500


def test_the_best_value_at_the_border_is_said() -> None:
    grid = {"positive": [0.0, 0.1, 0.2], "negative": [1.0, 2.0], "drops": [5.0]}
    best = {"positive": 0.1, "negative": 2.0, "drops": 5.0}
    assert tune.border(best, grid) == {"negative": "largest"}
    assert tune.border(best | {"positive": 0.0, "negative": 1.0}, grid) == {
        "positive": "smallest",
        "negative": "smallest",
    }


def test_tuning_on_test_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("circo", "test")
    with pytest.raises(ConfigError, match="tuned on val, never on test"):
        tune.tune(run, {"positive": [0]}, tmp_path)
    with pytest.raises(ConfigError, match="nothing to tune"):
        tune.grid_of(run.with_method("image").config, {})
    with pytest.raises(ConfigError, match="Did you mean 'negative'"):
        tune.grid_of(run.config, {"negativ": [1]})


def test_tuning_takes_triplets_of_any_split_but_test(
    make_run: MakeRun, small_world: Path, tmp_path: Path
) -> None:
    circo, mine = make_run().dataset, tmp_path / "mine"
    listing = {name: str(file) for name, file in circo.images.items()}
    write_json(mine / triplets.LISTING, {n: Path(f).name for n, f in listing.items()})
    (mine / triplets.IMAGES).symlink_to(Path(next(iter(listing.values()))).parent)
    one = [
        triplets.Triplet(reference=q.reference, text=q.relative_captions[0], target=q.target)
        for q in circo.queries
    ]
    triplets.write(mine / "triplets.train.jsonl", one)
    triplets.write(mine / "triplets.test.jsonl", one)
    run = make_run("triplets", "train", root=mine, search__method="image+text")
    assert run.dataset.for_tuning
    checks.tuning(run)
    assert charts.can_be_tuned(run.with_method("pdv"))
    with pytest.raises(ConfigError, match=r"never on test:.* Use --split val or --split train"):
        checks.tuning(make_run("triplets", "test", root=mine))


def test_a_benchmark_without_a_split_to_tune_on_says_what_is_left(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run("pinpoint", "licensed", root=layouts.write("pinpoint", tmp_path / "p", 2))
    assert run.dataset.has_ground_truth
    said = "no split to tune on: figures are reported on licensed.*synthesize --dataset pinpoint"
    with pytest.raises(ConfigError, match=said):
        checks.tuning(run)


def test_the_best_row_has_the_least_of_what_is_wrong(make_run: MakeRun, tmp_path: Path) -> None:
    dataset = make_run("pinpoint", "licensed", root=layouts.write("pinpoint", tmp_path, 2)).dataset
    names = [query.id for query in dataset.queries]

    def row(name: str, right: float, wrong: float) -> compare.Row:
        values = {"mAP@10": right, "negative_recall@10": wrong}
        return compare.Row(name, {m: dict.fromkeys(names, v) for m, v in values.items()}, None)

    rows = [row("bold", 0.9, 0.8), row("careful", 0.3, 0.1)]
    assert compare.baseline_of(dataset, rows, "best") == "bold"
    assert compare.baseline_of(dataset, rows, "best", "negative_recall@10") == "careful"


def test_tuning_for_what_is_wrong_finds_the_least(make_run: MakeRun, tmp_path: Path) -> None:
    root = layouts.write("pinpoint", tmp_path / "p", 4)
    run = make_run("pinpoint", "licensed", root=root, search__method="pdv", captioner__samples=2)
    run_stages(run)
    run.dataset.tuned_on = ("licensed",)  # type: ignore[misc]
    grid = {"blend": [0.3], "image": [0.0, 1.0, 3.0], "text": [0.0, 1.0, 3.0]}
    tuned = tune.tune(run, grid, tmp_path / "out", "negative_recall@10")
    found = tuned.table["negative_recall@10"]
    assert tuned.value == found.min() < found.max()


def test_the_commands_print_tables_and_json(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    run_stages(run)
    given = [*run.command.split(), "--cache", str(run.cache), "--workers", "0"]
    assert seize("search", *given, "--method", "all").exit_code == 0
    result = seize("compare", *given, "--json", "--baseline", "mean-ensemble")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert {line["method"] for line in content["table"]} == set(EVERY)
    assert {"p", "p_holm"} <= content["table"][0].keys()
    best = seize("compare", *given, "--json", "--baseline", "best", "--permutations", "200")
    assert json.loads(best.stdout)["baseline"] in EVERY
    (own,) = submit.files(run).values()
    twice = seize("compare", *given, "--with", f"pdv={own}")
    assert (twice.exit_code, "Two rows are called 'pdv'" in twice.stderr) == (2, True)
    out = tmp_path / "table.md"
    options = ("--format", "markdown", "--out", str(out), "--metric", "mAP@10")
    assert seize("compare", *given, *options).exit_code == 0
    assert "mAP@10 against seize" in out.read_text()
    folder = str(tmp_path / "tuned")
    result = seize(
        "tune", *given, "--grid", "positive=0", "--grid", "negative=0:2:0.5", "--out", folder
    )
    assert result.exit_code == 0, result.output
    assert "(5 cells)" in result.stdout
    result = seize("tune", *given, "--grid", "negative=1:x")
    assert result.exit_code == 2


def test_a_colleagues_settings_are_words_and_hide_from_nobody(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run()
    run_stages(run)
    given = [*run.command.split(), "--cache", str(run.cache), "--workers", "0"]
    (own,) = submit.files(run).values()
    theirs = tmp_path / "theirs.json"
    theirs.write_bytes(own.read_bytes())
    nasty = "x\n\\input{/etc/passwd}\\write18{id}\n%\x1b[31m<b>"
    fields = {
        nasty: "unknown",  # what is shown of a setting that nobody tells
        "=cmd|'/c calc'!A0": '=HYPERLINK("http://evil")',
        "method": "another",
        "mAP@5": "99.99",
    }
    content = {"search": {"protocol": {**run.protocol, **fields}}}
    theirs.with_suffix(".config.json").write_text(json.dumps(content))
    options = (*given, "--method", "seize", "--with", f"@t={theirs}")
    refused = seize("compare", *options)
    assert refused.exit_code == 2
    assert "not made under one protocol" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    one_field = {"search": {"protocol": {**run.protocol, "more": "unknown"}}}
    theirs.with_suffix(".config.json").write_text(json.dumps(one_field))
    assert seize("compare", *options).exit_code == 2, "an unknown setting is no equal setting"
    theirs.with_suffix(".config.json").write_text(json.dumps(content))
    for form in ("text", "markdown", "latex", "csv"):
        out = tmp_path / form
        done = seize("compare", *options, "--mixed", "--format", form, "--out", str(out))
        assert done.exit_code == 0, done.output
        text = out.read_text()
        assert "\x1b" not in text
        assert form not in ("markdown",) or "<b>" not in text
        for line in text.splitlines() if form == "latex" else ():
            assert line.startswith("% ") or "\\input" not in line
    table = pd.read_csv(tmp_path / "csv")
    assert table["method"].unique().tolist() == ["seize", "'@t"]
    assert table["protocol.method"].dropna().unique().tolist() == ["unknown", "another"]
    assert "'=cmd|'/c calc'!A0" in table
    assert set(table["'=cmd|'/c calc'!A0"]) == {"unknown", '\'=HYPERLINK("http://evil")'}


def test_a_row_that_lacks_a_metric_is_null_in_json_and_a_dash_for_people(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run("cirr")
    run_stages(run)
    given = [*run.command.split(), "--cache", str(run.cache), "--workers", "0", "--mixed"]
    whole = next(file for kind, file in submit.files(run).items() if "subset" not in kind)
    mine = tmp_path / "mine.json"
    mine.write_bytes(whole.read_bytes())
    options = (*given, "--method", "seize", "--with", f"mine={mine}", "--baseline", "mine")

    def never(constant: str) -> Any:
        raise AssertionError(f"{constant} is no JSON")

    done = seize("compare", *options, "--json")
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout, parse_constant=never)
    lacking = [line for line in content["table"] if line["difference"] is None]
    assert {line["metric"] for line in lacking} >= {"recall_subset@1"}
    for metric in ("recall@1", "recall_subset@1"):
        shown = seize("compare", *options, "--metric", metric)
        assert shown.exit_code == 0, shown.output
        assert "nan" not in shown.stdout
        assert ("–" in shown.stdout) == (metric == "recall_subset@1")


@pytest.mark.parametrize("form", ["numbers", "texts", "files"])
def test_a_published_result_file_is_a_row_whatever_it_calls_images(
    make_run: MakeRun, tmp_path: Path, form: str
) -> None:
    run = make_run(search__exclude_reference=False)
    run_stages(run)
    (own,) = submit.files(run).values()
    lists = json.loads(own.read_text())
    named: dict[str, Callable[[int], Any]] = {
        "numbers": int,
        "texts": str,
        "files": lambda number: f"images/{number:012d}.jpg",
    }
    theirs = tmp_path / "embedder_base_circo.json"
    theirs.write_text(
        json.dumps({query: [named[form](n) for n in images] for query, images in lists.items()})
    )
    given = [*run.command.split(), "--cache", str(run.cache), "--workers", "0", "--keep-reference"]
    table = seize(
        "compare", *given, "--method", "seize", "--with", f"theirs={theirs}", "--mixed", "--json"
    )
    assert table.exit_code == 0, table.output
    told = json.loads(table.stdout)
    differences = [line["difference"] for line in told["table"] if line["method"] == "theirs"]
    assert differences
    assert set(differences) == {0}
    assert told["conditions"]["theirs"]["reference"] == "kept", "their lists hold references"
    assert told["conditions"]["theirs"]["training"] == "unknown"
    measured = seize("evaluate", str(theirs), *run.command.split()[2:], "--json")
    assert json.loads(measured.stdout) == pytest.approx(evaluate(run))
    checked = seize("check", str(theirs), *run.command.split()[2:])
    assert checked.exit_code == (1 if form == "files" else 0), checked.output
    assert ("the server takes numbers" in checked.output) == (form == "files")

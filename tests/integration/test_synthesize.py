"""Triplets about images that nobody annotated: from a folder, from a gallery, by a served LLM."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline import datasets
from pipeline.cli import main
from pipeline.datasets import triplets
from pipeline.datasets.triplets import Triplet
from pipeline.demo import differences, world
from pipeline.run import Run
from pipeline.stages import embed, embeddings
from tests.conftest import PROJECT
from tests.holding import SEIZE, kill_once
from tests.stub import Fault, Running, Stub

FEW = (
    *("--config", "demo", "--captions", "1", "--set", "runtime.workers=0"),
    *("--set", "synthesize.prompt=difference", "--set", "synthesize.eval_prompt=edit"),
)
"""The demo's captioner and encoder, and the prompts that a large LLM is asked by."""


def words(text: str) -> str:
    """Answer as a good LLM would: a difference of two descriptions, or an edit of one."""
    found = re.search(r"First image.*?: (.*)\n\s*Second image: (.*)", text)
    if found:
        return json.dumps({"text": f"show {found[2]}", "text_reverse": f"show {found[1]}"})
    found = re.search(r"Image.*?: (.*)", text)
    said = re.sub(r" on a \w+ background$", "", found[1] if found else "")
    target = f"{said} on a dark background"
    return json.dumps({"text": "has a dark background", "target_caption": target})


@pytest.fixture
def llm() -> Iterator[Callable[..., tuple[str, ...]]]:
    """A function that serves a stub and returns the options that name it."""
    running: list[Running] = []

    def serve(stub: Stub) -> tuple[str, ...]:
        running.append(Running(stub))
        return ("--llm", stub.model, "--llm-url", running[-1].url)

    yield serve
    for one in running:
        one.stop()


@pytest.fixture
def photos(small_world: Path, tmp_path: Path) -> Path:
    """Twelve pictures, half of them in a category of their own, and one alone in a third."""
    root = tmp_path / "photos"
    pictures = sorted((small_world / "CIRCO").rglob("*.jpg"))
    for number, picture in enumerate(pictures[:12]):
        place = root / ("warm" if number % 2 else "cold") / f"{number:02}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, place)
    (root / "lonely").mkdir()
    shutil.copy(pictures[12], root / "lonely" / "one.jpg")
    return root


def command(tmp_path: Path, *words: str) -> list[str]:
    return [
        *("synthesize", *words, *FEW, "--out", str(tmp_path / "out")),
        *("--cache", str(tmp_path / "cache"), "--json"),
    ]


def run(tmp_path: Path, *words: str) -> dict[str, Any]:
    result = CliRunner().invoke(main, command(tmp_path, *words), catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    made: dict[str, Any] = json.loads(result.stdout)
    return made


def test_a_folder_becomes_triplets_and_a_dataset_that_every_command_opens(
    photos: Path, tmp_path: Path, llm: Callable[..., tuple[str, ...]]
) -> None:
    options = (*llm(Stub(answer=words)), "--prompt", "difference")
    made = run(tmp_path, str(photos), "--eval", *options)
    found = triplets.read(tmp_path / "out" / "triplets.val.jsonl")
    assert made["triplets"] == len(found) > 3
    assert made["dropped"]["images alone in their category"] == 1
    for one in found:
        assert one.target is not None
        assert one.reference.split("/")[0] == one.target.split("/")[0]
        assert one.category == one.reference.split("/")[0]
        assert (one.text, one.text_reverse) == (
            f"show {one.target_caption}",
            f"show {one.source_caption}",
        )
        assert one.generator == "echo"
        assert one.prompt_version.startswith("difference-")
    dataset = datasets.load("triplets", "val", tmp_path / "out")
    assert {query.reference for query in dataset.queries} <= set(dataset.images)
    assert all(file.is_file() for file in dataset.images.values())
    again = run(tmp_path, str(photos), "--eval", *options)
    assert [stage["computed"] for stage in again["stages"]] == [0] * len(again["stages"])
    shown = CliRunner().invoke(
        main,
        [
            *("run", "--dataset", "triplets", "--data-root", str(tmp_path / "out"), *FEW, "--json"),
            *("--method", "image+text", "--cache", str(tmp_path / "cache")),
            *("--submissions", str(tmp_path / "submissions")),
        ],
        catch_exceptions=False,
    )
    assert shown.exit_code == 0
    assert json.loads(shown.stdout)["metrics"]["recall@50"] == 100


def planned(tmp_path: Path, *words: str) -> dict[str, dict[str, Any]]:
    told = run(tmp_path, *words, "--plan")
    assert {cost["source"] for cost in told["costs"]}  # each says where its time is from
    return {f"{line['stage']} {line['quantity']}": line for line in told["lines"]}


@pytest.mark.parametrize("prompt", ["difference", "edit"])
def test_a_plan_says_before_what_is_then_done(
    photos: Path, tmp_path: Path, llm: Callable[..., tuple[str, ...]], prompt: str
) -> None:
    keep_all = ("--set", "synthesize.margin=-2")
    options = (str(photos), *llm(Stub(answer=words)), "--prompt", prompt, *keep_all)
    before = planned(tmp_path, *options)
    assert not (tmp_path / "cache").exists()  # planning leaves nothing behind
    assert not (tmp_path / "out").exists()
    assert before["embed images"]["todo"] == 13
    prompts = before["synthesize distinct prompts"]
    assert (prompts["cached"], prompts["certainty"]) == (0, "at most")
    few = planned(tmp_path, *options, "--limit", "3")["synthesize distinct prompts"]
    assert few["total"] * 13 == prompts["total"] * 3
    stages = run(tmp_path, *options)["stages"]
    wrote = next(stage for stage in stages if stage["stage"] == "synthesize")
    texts = sum(stage["computed"] for stage in stages if stage["unit"] == "texts")
    assert 0 < wrote["computed"] <= prompts["total"]
    assert texts - wrote["computed"] <= before["embed texts"]["total"]
    after = planned(tmp_path, *options)
    assert after["caption captions"]["total"] <= before["caption captions"]["total"]
    done = after["synthesize distinct prompts"]
    assert (done["total"], done["certainty"]) == (wrote["computed"], "exact")
    assert all(line["todo"] == 0 for name, line in after.items() if "embed texts" not in name
               and "text features" not in name)  # fmt: skip
    costs = run(tmp_path, *options, "--plan", "--set", "synthesize.seed=9")["costs"]
    assert {cost["source"] for cost in costs if cost["stage"] == "synthesize"} == {"nothing to do"}
    shutil.copy(photos / "warm" / "01.jpg", photos / "warm" / "more.jpg")
    with (photos / "warm" / "more.jpg").open("ab") as stream:
        stream.write(b"0")  # another image, by its bytes
    more = planned(tmp_path, *options)
    assert (more["embed images"]["total"], more["embed images"]["todo"]) == (14, 1)


def test_the_plan_of_a_benchmark_is_that_of_its_images_and_knows_the_last_runs_rate(
    small_world: Path, tmp_path: Path, llm: Callable[..., tuple[str, ...]]
) -> None:
    options = llm(Stub(answer=words))
    source = ("--dataset", "circo", "--split", "val", "--data-root", str(small_world))
    run(tmp_path, *source, "--limit", "8", "--prompt", "edit", *options)
    given = [*source, *FEW, *options, "--set", "synthesize.prompt=edit", "--limit", "20", "--json"]
    asked = ["plan", *given, "--synthesize", "--cache", str(tmp_path / "cache")]
    result = CliRunner().invoke(main, asked, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    (prompts,) = (line for line in told["lines"] if line["quantity"] == "distinct prompts")
    assert (prompts["stage"], prompts["total"]) == ("synthesize", 20)
    assert 0 <= prompts["cached"] <= 8
    (cost,) = (cost for cost in told["costs"] if cost["stage"] == "synthesize")
    assert cost["source"].startswith("your last run: 8 in ")
    assert 0 < cost["fastest"] <= cost["slowest"]
    assert "Name the folder" in refused(*source, *FEW, *options)
    assert "--plan" in refused(*source, *FEW, *options, "--out", "x", "--on", "cpu")


def refused(*words: str) -> str:
    result = CliRunner().invoke(main, ["synthesize", *words])
    assert result.exit_code == 2
    return result.stderr


def test_a_renamed_image_and_a_copy_compute_nothing(
    photos: Path, tmp_path: Path, llm: Callable[..., tuple[str, ...]]
) -> None:
    options = llm(Stub(answer=words))
    run(tmp_path, str(photos), *options)
    (photos / "cold" / "00.jpg").rename(photos / "cold" / "renamed.jpg")
    shutil.copy(photos / "cold" / "02.jpg", photos / "cold" / "copy.jpg")
    again = run(tmp_path, str(photos), *options)
    assert [stage["computed"] for stage in again["stages"]] == [0] * len(again["stages"])


def test_captions_alone_become_edits_whose_nearest_image_is_the_target(
    small_world: Path, tmp_path: Path, llm: Callable[..., tuple[str, ...]]
) -> None:
    options = llm(Stub(answer=words))
    source = ("--dataset", "circo", "--split", "val", "--data-root", str(small_world))
    made = run(tmp_path, *source, "--prompt", "edit", "--limit", "30", *options)
    found = triplets.read(tmp_path / "out" / "triplets.train.jsonl")
    left = sum(made["dropped"].values())
    assert len(found) + left == 30
    assert all(one.target not in (None, one.reference) for one in found)
    assert all(
        one.target_caption and one.target_caption.endswith("dark background") for one in found
    )
    assert datasets.load("triplets", "train", tmp_path / "out").queries


def test_categories_of_a_benchmark_are_its_galleries(
    small_world: Path, tmp_path: Path, llm: Callable[..., tuple[str, ...]]
) -> None:
    options = llm(Stub(answer=words))
    source = ("--dataset", "fashioniq", "--data-root", str(small_world), "--limit", "12")
    run(tmp_path, *source, *options)
    loaded = datasets.load("fashioniq", "val", small_world)
    for one in triplets.read(tmp_path / "out" / "triplets.train.jsonl"):
        assert one.category in loaded.galleries
        assert {one.reference, one.target} <= set(loaded.galleries[one.category or ""])


def test_filters_take_edits_of_the_sentence_and_failures_and_count_them(
    small_world: Path, tmp_path: Path, llm: Callable[..., tuple[str, ...]]
) -> None:
    asked: list[str] = []

    def bad(text: str) -> str:
        if text not in asked:
            asked.append(text)
        number = asked.index(text)
        if number % 4 == 0:
            return "Here you go: a star"
        if number % 4 == 1:
            return json.dumps({"text": "use a shorter sentence", "target_caption": "a red star"})
        if number % 4 == 2:
            said = re.search(r"Image: (.*)", text)
            same = f"There is {said[1] if said else ''}"
            return json.dumps({"text": "has one", "target_caption": same})
        return words(text)

    options = llm(Stub(answer=bad))
    source = ("--dataset", "circo", "--data-root", str(small_world), "--prompt", "edit")
    made = run(tmp_path, *source, "--limit", "32", *options, "--set", "llm.attempts=2")
    dropped = made["dropped"]
    assert dropped["the answer was no JSON with text and target_caption"] == 8
    assert dropped["speaks of the sentence, not of the picture"] == 8
    assert dropped["describes the same picture in other words"] >= 8  # dark ones stay dark
    assert made["triplets"] + sum(dropped.values()) == 32
    failed = next(stage for stage in made["stages"] if stage["stage"] == "synthesize")["failed"]
    assert len(failed) == 8
    # They stay failed, until they are to be tried again.
    options = llm(Stub(answer=words))
    again = run(tmp_path, *source, "--limit", "32", *options, "--set", "llm.attempts=2")
    stages = {stage["stage"]: stage for stage in again["stages"]}
    assert (stages["synthesize"]["computed"], len(stages["synthesize"]["failed"])) == (0, 8)
    retried = run(
        *(tmp_path, *source, "--limit", "32", *options, "--set", "llm.attempts=2"), "--retry-failed"
    )
    stages = {stage["stage"]: stage for stage in retried["stages"]}
    assert (stages["synthesize"]["computed"], len(stages["synthesize"]["failed"])) == (8, 0)


def test_an_llm_that_writes_no_json_is_stopped_early(
    small_world: Path, tmp_path: Path, llm: Callable[..., tuple[str, ...]]
) -> None:
    stub = Stub(answer=lambda text: "I see two images.")
    source = ("--dataset", "circo", "--data-root", str(small_world))
    result = CliRunner().invoke(main, command(tmp_path, *source, *llm(stub)))
    assert result.exit_code == 5
    assert "no JSON with text and text_reverse" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "Give a folder of images, or --dataset"),
        (["{photos}/lonely"], 3, "No two images make a pair"),
        (["{photos}", "--prompt", "fine"], 2, "seize triplets"),
        (["{photos}", "--prompt", "differnce"], 2, "Did you mean 'difference'"),
        (["{photos}", "--llm", "transformers:nowhere/at/all"], 5, "there is no such folder"),
        (["{photos}/cold/00.jpg"], 3, "is not a folder"),
        (["{photos}", "--set", "synthesize.copies_above=-1"], 3, "neighbours are all copies"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    photos: Path, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    given = [argument.format(photos=photos) for argument in arguments]
    result = CliRunner().invoke(main, command(tmp_path, *given))
    assert (result.exit_code, said in result.stderr) == (code, True), result.stderr


def test_a_folder_of_other_triplets_is_not_written_over(
    photos: Path, tmp_path: Path, llm: Callable[..., tuple[str, ...]]
) -> None:
    options = llm(Stub(answer=words))
    run(tmp_path, str(photos), *options)
    before = (tmp_path / "out" / "triplets.train.jsonl").read_bytes()
    result = CliRunner().invoke(main, command(tmp_path, str(photos / "cold"), *options))
    assert (result.exit_code, "other images" in result.stderr) == (3, True)
    assert (tmp_path / "out" / "triplets.train.jsonl").read_bytes() == before


def test_more_images_than_there_are_is_said(
    photos: Path,
    tmp_path: Path,
    llm: Callable[..., tuple[str, ...]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    run(tmp_path, str(photos), "--limit", "99", *llm(Stub(answer=words)))
    assert "only 13 images that can be references, not 99" in caplog.text


def test_kill_9_loses_at_most_the_answers_in_flight(
    photos: Path, tmp_path: Path, llm: Callable[..., tuple[str, ...]]
) -> None:
    server = Stub(answer=words)
    server.plan = lambda text, tries: Fault(hang=True) if len(server.seen) > 3 else None
    options = (*llm(server), "--concurrency", "1")
    arguments = command(tmp_path, str(photos), *options)
    folder = tmp_path / "cache" / "synthesize"

    def answers() -> int:
        files = list(folder.glob("*.jsonl"))
        return sum(len(file.read_bytes().split(b"\n")) - 2 for file in files)

    kill_once(lambda: answers() == 3, subprocess.Popen([*SEIZE, *arguments], cwd=PROJECT))
    kept = 3
    server.plan = lambda text, tries: None
    made = run(tmp_path, str(photos), *options)
    stages = {stage["stage"]: stage for stage in made["stages"]}
    assert stages["synthesize"]["cached"] == kept
    disturbed = (tmp_path / "out" / "triplets.train.jsonl").read_bytes()
    shutil.rmtree(tmp_path / "cache")
    again = run(tmp_path, str(photos), *llm(Stub(answer=words)))
    (alone,) = (stage for stage in again["stages"] if stage["stage"] == "synthesize")
    assert alone["computed"] == kept + stages["synthesize"]["computed"] > kept
    assert (tmp_path / "out" / "triplets.train.jsonl").read_bytes() == disturbed


def test_texts_are_told_at_length_or_short_and_a_failure_leaves_them(
    tmp_path: Path, llm: Callable[..., tuple[str, ...]]
) -> None:
    def told(text: str) -> str:
        if "fail" in text:
            return "no"
        named = "text_fine" if "First image" in text else "text"
        return json.dumps({named: "make it red"})

    file, out = tmp_path / "t.jsonl", tmp_path / "o.jsonl"
    given = [
        Triplet(reference="a", target="b", text="the dress should be of a red colour"),
        Triplet(reference="a", target="c", text="fail here please do"),
        Triplet(reference="a", target="d", text="is blue"),
    ]
    triplets.write(file, given)
    options = llm(Stub(answer=told))

    def rewritten(prompt: str, *more: str) -> tuple[dict[str, Any], list[Triplet]]:
        result = CliRunner().invoke(
            main,
            [
                *("triplets", "rewrite", str(file), "--prompt", prompt, "--out", str(out)),
                *("--config", "demo", "--cache", str(tmp_path / "cache"), "--json"),
                *options,
                *more,
            ],
            catch_exceptions=False,
        )
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout), triplets.read(out)

    made, found = rewritten("short", "--longer-than", "3")
    assert len(made["stages"][0]["failed"]) == 1
    assert (found[0].text, found[0].text_fine) == ("make it red", given[0].text)
    assert found[1:] == given[1:]
    made, found = rewritten("fine")
    assert (found[0].text_fine, found[0].text) == ("make it red", given[0].text)
    assert made["stages"][0]["computed"] == 3


def test_a_server_that_is_not_there_is_said_and_nothing_is_lost(
    photos: Path, tmp_path: Path, llm: Callable[..., tuple[str, ...]]
) -> None:
    stub = Stub(answer=words, plan=lambda text, tries: Fault(status=500))
    quick = ("--set", "runtime.retries=0", "--set", "runtime.give_up_after=1")
    result = CliRunner().invoke(main, command(tmp_path, str(photos), *llm(stub), *quick))
    assert result.exit_code in (3, 5)
    assert not (tmp_path / "out" / "triplets.train.jsonl").exists()
    made = run(tmp_path, str(photos), *llm(Stub(answer=words)), *quick, "--retry-failed")
    assert made["triplets"] > 3


def test_texts_that_the_encoder_cuts_are_counted(
    make_run: Callable[..., Run], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    long = " ".join(["two red stars above a circle."] * 9)
    run = make_run(search__method="text")
    texts = [long, "two red stars", f"{long} again"]
    assert embed.embed_texts(run, texts, []).too_long == 2
    assert "2 of 3 texts are longer than what the encoder reads, and were cut" in caplog.text
    file = tmp_path / "t.jsonl"
    triplets.write(file, [Triplet(reference="a", target="b", text=text) for text in texts])
    shown = CliRunner().invoke(
        main,
        ["triplets", "show", str(file), "--context", "--config", "demo", "--json"],
        catch_exceptions=False,
    )
    assert json.loads(shown.stdout)["longer_than_context"] == 2


def test_how_long_texts_are_read_changes_no_image(make_run: Callable[..., Run]) -> None:
    run, parted = make_run(), make_run(clip__long_texts="segments")
    assert embeddings.image_file(run) == embeddings.image_file(parted)
    assert embeddings.text_file(run) != embeddings.text_file(parted)


def test_from_a_folder_to_the_best_method_and_weights_by_the_demos_own_llm(
    small_world: Path, tmp_path: Path
) -> None:
    """The README's story: synthesize, run, search, compare, tune, query; no label anywhere."""
    photos, out = tmp_path / "photos", tmp_path / "mine"
    photos.mkdir()
    for picture in sorted((small_world / "CIRCO").rglob("*.jpg"))[:60]:
        shutil.copy(picture, photos)
    places = ("--cache", str(tmp_path / "cache"))
    demo = ("--config", "demo", "--set", "runtime.workers=0", "--captions", "3")
    on = ("--dataset", "triplets", "--data-root", str(out), *demo, *places)
    on += ("--submissions", str(tmp_path / "submissions"))

    def seize(*arguments: str) -> Any:
        result = CliRunner().invoke(main, [*arguments, "--json"], catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    made = seize("synthesize", str(photos), "--eval", "--out", str(out), *demo, *places)
    found = triplets.read(out / "triplets.val.jsonl")
    assert made["triplets"] == len(found) >= 10
    known = {*world.vocabulary(), *differences.vocabulary()}
    told = {word.strip(",.") for one in found for word in one.text.split()}
    assert told <= known
    assert {one.generator for one in found} == {"synthesizer"}
    metrics = seize("run", *on)["metrics"]
    assert 0 < metrics["mAP@10"] <= 100
    seize("search", *on, "--method", "all")
    table = seize("compare", *on, "--resamples", "100")["table"]
    assert {"seize", "pdv", "image", "text"} <= {line["method"] for line in table}
    tuned = seize("tune", *on, "--method", "pdv", "--out", str(tmp_path / "outputs"))
    assert tuned["metric"] == "mAP@10"
    best = [f"--set=search.pdv.{name}={value}" for name, value in tuned["best"].items()]
    seize("index", str(photos), "--config", "demo", "--set", "runtime.workers=0", *places)
    asked = (str(photos / found[0].reference), found[0].text, "--gallery", str(photos))
    shown = seize("query", *asked, *best, "--method", "pdv", "--config", "demo", *places)
    assert shown["images"]


VLLM = f"""#!{sys.executable}
import json, os, sys
sys.path.insert(0, {str(PROJECT)!r})
from aiohttp import web
from tests.stub import Stub
with open(os.environ["STARTED"], "a") as stream:
    print(*sys.argv[1:3], file=stream)
def words(text):
    if "Image" not in text:
        return text
    return json.dumps({{"text": "is on a beach", "target_caption": f"scene {{hash(text)}}"}})
stub = Stub(answer=words, model=sys.argv[2])
app = stub.application()
async def healthy(request):
    return web.Response()
app.router.add_get("/health", healthy)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[sys.argv.index("--port") + 1]), print=None)
"""


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """A program that serves as ``vllm serve`` does; returns what was served so far."""
    program, started = tmp_path / "vllm", tmp_path / "started"
    program.write_text(VLLM)
    program.chmod(0o755)
    monkeypatch.setenv("STARTED", str(started))
    return lambda: started.read_text().splitlines() if started.exists() else []


def test_an_llm_is_served_for_as_long_as_it_writes_and_not_where_all_is_written(
    photos: Path, tmp_path: Path, vllm: Callable[[], list[str]]
) -> None:
    serve = ("--serve", "writer", "--vllm-bin", str(tmp_path / "vllm"))
    made = run(tmp_path, str(photos), "--prompt", "edit", *serve)
    found = triplets.read(tmp_path / "out" / "triplets.train.jsonl")
    assert made["triplets"] == len(found) > 3
    assert {one.generator for one in found} == {"writer"}
    assert vllm() == ["serve writer"]
    again = run(tmp_path, str(photos), "--prompt", "edit", *serve)
    assert again["triplets"] == made["triplets"]
    assert vllm() == ["serve writer"]
    given = ("triplets", "rewrite", str(tmp_path / "out" / "triplets.train.jsonl"), "--config")
    more = ("demo", "--out", str(tmp_path / "o.jsonl"), "--cache", str(tmp_path / "cache"))
    result = CliRunner().invoke(main, [*given, *more, *serve], catch_exceptions=False)
    assert result.exit_code == 0
    assert vllm() == ["serve writer"] * 2
    missing = (*command(tmp_path, str(photos)), "--serve", "writer", "--vllm-bin", "/no/vllm")
    refused = CliRunner().invoke(main, missing)
    assert (refused.exit_code, "There is no vllm at /no/vllm" in refused.stderr) == (2, True)


def test_every_stage_of_a_run_that_asks_the_llm_has_it_served(
    small_world: Path, tmp_path: Path, vllm: Callable[[], list[str]]
) -> None:
    options = [
        *("--dataset", "circo", "--data-root", str(small_world), "--limit", "2", *FEW),
        *("--method", "pool:planned,seize", "--set", "search.decompose.prompt=atomic"),
        *("--cache", str(tmp_path / "cache"), "--submissions", str(tmp_path / "submissions")),
        *("--serve", "writer", "--vllm-bin", str(tmp_path / "vllm")),
    ]
    result = CliRunner().invoke(main, ["run", *options], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    assert vllm() == ["serve writer"] * 2  # decompose, edit

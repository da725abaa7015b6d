"""The report of a real run, opened in a real browser."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from pipeline import config, datasets
from pipeline.errors import ConfigError, InputError, MissingStageError
from pipeline.pages import report
from pipeline.pages.report import charts
from pipeline.printable import STEERING, printable
from pipeline.retrieval.methods.increment import Increment
from pipeline.run import Run
from pipeline.stages import caption, decompose, edit, embed, export, released, search
from pipeline.stages.evaluate import evaluate
from pipeline.stages.everything import run_stages
from pipeline.store.jsonl import write_records
from pipeline.study import tune
from tests.browser import Seen, barriers, resize, watch
from tests.integration.test_cli import seize
from tests.integration.test_decompose import at, plan_of
from tests.stub import Fault, Running, Stub

MakeRun = Callable[..., Run]
SPLITS = [("circo", "val"), ("circo", "test"), ("cirr", "val"), ("fashioniq", "val")]


def searched(root: Path, folder: Path, dataset: str, split: str) -> Run:
    """A run whose rankings by three methods are there."""
    settings = config.load("demo", {"runtime.workers": 0, "runtime.device": "cpu"})
    command = f"--config demo --dataset {dataset} --split {split} --data-root {root}"
    loaded = datasets.load(dataset, split, root)
    run = Run(loaded, settings, folder / "cache", folder / "submissions", command)
    run_stages(run)
    search.search(run.with_method("mean-ensemble,image"))
    return run


@pytest.fixture(scope="module")
def runs(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Runs of three benchmarks, and of a split without ground truth."""
    made = (searched(small_world, tmp_path_factory.mktemp("runs"), *split) for split in SPLITS)
    return {run.name: run for run in made}


@pytest.fixture
def show(page: Page, tmp_path: Path) -> Iterator[Callable[..., tuple[Page, Seen]]]:
    """A function that writes a report and opens it; at the end, the page has not complained."""
    seen = watch(page)
    file = tmp_path / "report.html"

    def write_and_open(run: Run, **options: Any) -> tuple[Page, Seen]:
        chosen = report.Options(**{"outputs": Path("nowhere"), "resamples": 100} | options)
        report.report(run, file, chosen)
        page.goto(file.as_uri())
        return page, seen

    yield write_and_open
    assert seen.errors == []
    assert set(seen.requests) <= {file.as_uri()}


def data_of(page: Page) -> Any:
    return json.loads(page.locator("#data").text_content() or "")


def ids(page: Page) -> list[str]:
    return page.locator(".query:not([hidden]) h3").all_text_contents()


def card(page: Page, query: str) -> Locator:
    """The card of a query, with its images."""
    found = page.locator(f"[id='query-{query}']")
    found.scroll_into_view_if_needed()
    found.locator(".results").first.wait_for()
    return found


@pytest.mark.parametrize("name", ["circo-val", "circo-test", "cirr-val", "fashioniq-val"])
def test_every_query_is_shown_with_its_images_and_figures(
    show: Callable[..., tuple[Page, Seen]], runs: dict[str, Run], name: str
) -> None:
    run = runs[name]
    page, _ = show(run)
    rankings = {ranking.query: ranking for ranking in search.read(run)}
    by_absolute = {r.query: r for r in search.read(run.with_method("mean-ensemble"))}
    weights = Increment(**Increment.by_dataset[run.dataset.name])
    assert ids(page) == [f"query {query.id}" for query in run.queries]
    moved = 0
    for query in run.queries[:4]:
        found = card(page, query.id)
        assert query.relative_captions[0] in found.locator(".relative").inner_text()
        top = found.locator(".results").first.locator(".result")
        shown = [text.split("\n")[-1] for text in top.all_inner_texts()]
        assert tuple(shown) == rankings[query.id].images[:10]
        framed = found.locator(".results").first.locator(".truth .name").all_inner_texts()
        assert framed == [image for image in shown if image in query.relevant]
        every = found.locator(".truth .name").all_inner_texts()
        assert set(every) == set(query.relevant)  # those further down are shown too
        for place, image in enumerate(shown):
            text = top.nth(place).inner_text().replace("−", "-").replace("\n", " ")
            figures = {
                key: float(re.search(rf"{key} ([+-]?[\d.]+)", text)[1])  # type: ignore[index]
                for key in ("score", "absolute", "increment")
            }
            increment = figures["increment"]
            weight = weights.positive if increment > 0 else weights.negative
            expected = figures["absolute"] + weight * increment
            assert figures["score"] == pytest.approx(expected, abs=1e-4 * (2 + abs(weight)))
            if image in by_absolute[query.id].images:
                before = by_absolute[query.id].images.index(image) + 1
                after = place + 1
                arrow = f"▲{before - after} from" if before > after else f"▼{after - before} from"
                assert f"{after} =" in text if before == after else f"{arrow} {before}" in text
                moved += before != after
        found.locator("img").evaluate_all("all => Promise.all(all.map(i => i.decode()))")
    assert moved > 0
    page.locator(".query details").first.click()
    captions = caption.read(run)[run.queries[0].id]
    edits = edit.read(run)[run.queries[0].id]
    cells = page.locator(".query .texts").first.locator("td").all_inner_texts()
    assert cells == [text for pair in zip(captions, edits, strict=True) for text in pair]


def test_metrics_stand_with_their_intervals_and_parts(
    show: Callable[..., tuple[Page, Seen]], runs: dict[str, Run]
) -> None:
    run = runs["circo-val"]
    page, _ = show(run)
    table = " ".join(page.locator(".figures").inner_text().split())
    for metric, value in evaluate(run).items():
        name = metric.partition("/")[2].replace("_", " ") or metric
        assert re.search(rf"{name} {value:.2f} [\d.]+ to [\d.]+", table), name
    assert page.locator(".bar").count() == len({a for q in run.queries for a in q.aspects})
    provenance = page.locator("main").text_content() or ""
    assert search.ranking_file(run).file.name in provenance
    assert caption.header(run)["model"] in provenance
    assert str(run.cache) not in page.content()
    page, _ = show(runs["circo-test"])
    assert "no ground truth" in page.locator("header").inner_text()
    assert page.locator(".truth, .bar, #metrics-title").count() == 0
    page, _ = show(runs["fashioniq-val"])
    assert "recall@10 by category" in page.locator(".figures").inner_text()


def test_the_subset_ranking_of_cirr_is_shown(
    show: Callable[..., tuple[Page, Seen]], runs: dict[str, Run]
) -> None:
    run = runs["cirr-val"]
    page, _ = show(run)
    ranking = search.read(run)[0]
    found = card(page, ranking.query)
    names = found.locator(".results").last.locator(".name").all_inner_texts()
    assert tuple(names) == ranking.subset
    assert set(names) == set(run.queries[0].group)


def test_queries_are_sorted_filtered_and_found_by_address(
    show: Callable[..., tuple[Page, Seen]], runs: dict[str, Run]
) -> None:
    run = runs["circo-val"]
    page, _ = show(run)
    data = data_of(page)
    values = {q["id"]: q["sides"][0]["metrics"][0] for q in data["queries"]}
    assert data["metrics"][0] == "AP@5"
    page.get_by_label("Sort by").select_option("AP@5")
    rising = [values[text.split()[-1]] for text in ids(page)]
    assert rising == sorted(values.values())
    assert len(set(rising)) > 2
    page.get_by_label("Order").select_option("highest first")
    assert [values[text.split()[-1]] for text in ids(page)] == rising[::-1]
    page.get_by_label("Sort by").select_option("places moved from absolute similarity")
    first = next(q for q in data["queries"] if f"query {q['id']}" == ids(page)[0])["sides"][0][
        "top"
    ]
    moves = [abs(a - b) for a, b in zip(first["place"], first["ranks"], strict=True)]
    for query in data["queries"]:
        top = query["sides"][0]["top"]
        assert sum(abs(a - b) for a, b in zip(top["place"], top["ranks"], strict=True)) <= sum(
            moves
        )

    page.get_by_label("Filter").fill("no such words")
    assert ids(page) == []
    assert page.locator("#count").inner_text() == f"0 of {len(run.queries)} queries"
    word = max(run.queries[2].relative_captions[0].split(), key=len)
    page.get_by_label("Filter").fill(word.upper())
    fitting = {
        f"query {q['id']}" for q in data["queries"] if word in str([q["relative"], q["captions"]])
    }
    assert set(ids(page)) == fitting
    page.get_by_label("Filter").fill("")
    aspect = run.queries[0].aspects[0]
    page.get_by_label("Semantic aspect").select_option(aspect)
    assert set(ids(page)) == {f"query {q.id}" for q in run.queries if aspect in q.aspects}

    page.get_by_label("Filter").fill("no such words")
    page.evaluate("query => { location.hash = `query-${query}` }", run.queries[-1].id)
    card(page, run.queries[-1].id)
    assert page.evaluate("document.activeElement.id") == f"query-{run.queries[-1].id}"


def test_it_works_by_keyboard_alone(
    show: Callable[..., tuple[Page, Seen]], runs: dict[str, Run]
) -> None:
    page, _ = show(runs["circo-val"])
    page.locator(".results").first.wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the queries"
    page.keyboard.press("Enter")
    expect(page.locator("#queries")).to_be_focused()
    reached = []
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert reached == ["filter", "part", "sort", "direction", "open-captions", "A", "SUMMARY", "A"]
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".query .texts td").first).to_be_visible()
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_narrow_screens_and_text_is_legible(
    show: Callable[..., tuple[Page, Seen]], runs: dict[str, Run], scheme: Any
) -> None:
    for width in (320, 390, 1280):
        for options in ({}, {"other": "image"}):
            page, _ = show(runs["circo-val"], **options)
            page.emulate_media(color_scheme=scheme)
            resize(page, width, 700)
            card(page, runs["circo-val"].queries[0].id)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
    ratios = page.evaluate(
        """() => {
          const style = getComputedStyle(document.documentElement);
          const light = (name) => {
            const hex = style.getPropertyValue(name).trim();
            const parts = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255);
            const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
            const [r, g, b] = parts.map(linear);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const found = {};
          for (const ink of ["--ink", "--quiet", "--link", "--truth", "--up", "--down"]) {
            for (const paper of ["--paper", "--card"]) {
              const [a, b] = [light(ink), light(paper)].sort((x, y) => y - x);
              found[ink + paper] = (a + 0.05) / (b + 0.05);
            }
          }
          return found;
        }"""
    )
    assert all(ratio >= 4.5 for ratio in ratios.values()), ratios  # WCAG 2.2, 1.4.3


def test_everyone_can_use_it(
    show: Callable[..., tuple[Page, Seen]], runs: dict[str, Run], tmp_path: Path
) -> None:
    """As far as axe-core sees: with two rankings, and with a tuning."""
    run, folder = runs["circo-val"], tmp_path / "outputs"
    tune.tune(run, {"positive": [0.0, 0.13], "negative": [0.5, 1.0]}, folder)
    page, _ = show(run, outputs=folder)
    page.locator(".results").first.wait_for()
    page.get_by_label("open all captions").check()
    assert barriers(page) == []
    page, _ = show(run, other="image")
    page.locator(".results").first.wait_for()
    assert barriers(page) == []


def test_printing_shows_every_matching_query(
    show: Callable[..., tuple[Page, Seen]], runs: dict[str, Run]
) -> None:
    page, _ = show(runs["circo-val"])
    everything = page.pdf()
    assert everything.startswith(b"%PDF")
    assert page.locator(".sides").count() == len(runs["circo-val"].queries)
    page.get_by_label("Filter").fill("no such words")
    assert len(page.pdf()) < len(everything) / 2


def test_two_rankings_stand_side_by_side_the_most_changed_first(
    show: Callable[..., tuple[Page, Seen]], runs: dict[str, Run]
) -> None:
    run = runs["circo-val"]
    page, _ = show(run, other="image")
    data = data_of(page)
    gains = {
        q["id"]: abs(q["sides"][0]["metrics"][0] - q["sides"][1]["metrics"][0])
        for q in data["queries"]
    }
    shown = [gains[text.split()[-1]] for text in ids(page)]
    assert shown == sorted(shown, reverse=True)
    assert shown[0] > shown[-1]
    first = ids(page)[0].split()[-1]
    own = {r.query: r.images for r in search.read(run)}[first]
    other = {r.query: r.images for r in search.read(run.with_method("image"))}[first]
    sides = card(page, first).locator(".sides > section")
    assert [text.split(",")[0] for text in sides.locator("h4").all_inner_texts()] == [
        "seize",
        "image",
    ]
    for number, (images, others) in enumerate([(own, other), (other, own)]):
        results = sides.nth(number).locator(".results").first.locator(".result").all_inner_texts()
        for image, text in zip(images[:10], results, strict=True):
            assert text.endswith(image)
            rank = str(others.index(image) + 1) if image in others else "> 50"
            assert f"other rank\n{rank}\n" in text.replace("\n\n", "\n")
    head = page.locator(".figures thead").first.inner_text().strip().split("\t")
    assert head == ["metric", "seize (%)", "image (%)", "against seize"]
    page.get_by_label("Sort by").select_option("gain against image")
    best = max(q["sides"][0]["metrics"][0] - q["sides"][1]["metrics"][0] for q in data["queries"])
    top = next(q for q in data["queries"] if f"query {q['id']}" == ids(page)[0])
    assert top["sides"][0]["metrics"][0] - top["sides"][1]["metrics"][0] == pytest.approx(best)


def test_without_ground_truth_the_change_is_in_the_images(
    show: Callable[..., tuple[Page, Seen]], runs: dict[str, Run]
) -> None:
    page, _ = show(runs["circo-test"], other="image")
    data = data_of(page)
    shared = {
        q["id"]: len(set(q["sides"][0]["top"]["images"]) & set(q["sides"][1]["top"]["images"]))
        for q in data["queries"]
    }
    assert [shared[text.split()[-1]] for text in ids(page)] == sorted(shared.values())


def test_rankings_that_cannot_be_compared_are_refused(
    runs: dict[str, Run], make_run: MakeRun, tmp_path: Path
) -> None:
    run, out = runs["circo-val"], tmp_path / "report.html"
    for other, error, message in [
        ("seize", ConfigError, "the ranking that is reported itself"),
        ("sieze", ConfigError, "Did you mean 'seize'"),
        ("ldre", MissingStageError, "seize search .*--config demo"),
        (str(tmp_path / "no.jsonl"), InputError, "does not exist"),
        (str(search.ranking_file(runs["cirr-val"]).file), InputError, "other queries"),
        (str(caption.record_file(run).file), InputError, "not a ranking|other queries"),
    ]:
        with pytest.raises(error, match=message):
            report.report(run, out, report.Options(other=other))
    kept = make_run(search__exclude_reference=False)
    shutil.copytree(run.cache, kept.cache)
    search.search(kept)
    file = str(search.ranking_file(kept).file)
    with pytest.raises(ConfigError, match="exclude_reference"):
        report.report(run, out, report.Options(other=file))
    assert not out.exists()
    report.report(run, out, report.Options(other=file, mixed=True))
    assert out.exists()


HOSTILE = (
    "<img src=x onerror=\"window.broken='image'\">",
    "</script><script>window.broken='script'</script>",
    "<!--<script>",
    "]]> \u2028 {{ 7 * 7 }} '\"&lt;",
    "\x1b]0;title\x07 \x9b31m \u202egpj.exe \x00 javascript:window.broken=1",
)


def test_hostile_texts_are_shown_and_do_nothing(
    show: Callable[..., tuple[Page, Seen]], small_world: Path, make_run: MakeRun, tmp_path: Path
) -> None:
    root = tmp_path / "hostile"
    shutil.copytree(small_world / "CIRR", root / "CIRR")
    plain = datasets.load("cirr", "val", root)
    name = plain.queries[0].reference
    for file in (root / "CIRR" / "cirr").rglob("*.json"):
        content = file.read_text(encoding="utf-8").replace(f'"{name}"', json.dumps(HOSTILE[0]))
        file.write_text(content, encoding="utf-8")
    annotations = root / "CIRR" / "cirr" / "captions" / "cap.rc2.val.json"
    entries = json.loads(annotations.read_text(encoding="utf-8"))
    for number, entry in enumerate(entries):
        entry["caption"] = HOSTILE[number % len(HOSTILE)]
    annotations.write_text(json.dumps(entries), encoding="utf-8")
    run = make_run("cirr", root=root)
    caption.caption(run)
    records = caption.record_file(run)
    changed = [record | {"captions": list(HOSTILE)} for record in records.read()]
    write_records(records.file, records.header, changed)
    edit.edit(run)
    embed.embed(run)
    search.search(run)
    page, seen = show(run)
    assert len(ids(page)) == len(run.queries)
    shown = [printable(text) for text in HOSTILE]
    for query in run.queries:
        found = card(page, query.id)
        assert found.locator(".relative").text_content() == printable(query.relative_captions[0])
        found.locator("summary").click()
        cells = found.locator(".texts td").all_inner_texts()
        assert [text.strip() for text in cells[::2]] == shown
    figures = page.locator(".query figcaption").all_text_contents()
    assert figures[0] == f"reference {HOSTILE[0]}"
    page.get_by_label("Filter").fill("<img")
    assert page.evaluate("window.broken") is None
    assert page.locator("img[src=x]").count() == 0
    assert not STEERING.search(page.content())
    refused = "document.body.append(Object.assign(document.createElement('script'), {text: '1'}))"
    with (
        page.expect_console_message(lambda said: "TrustedScript" in said.text),
        pytest.raises(Exception, match="TrustedScript"),
    ):
        page.evaluate(refused)
    assert "TrustedScript" in seen.errors.pop()


def plan_cells(found: Locator) -> list[list[str]]:
    """The rows of the plan that a query's card shows, opened."""
    found.locator("details:has(.plan) summary").click()
    rows = found.locator(".plan tbody tr").all()
    return [row.locator("td").all_text_contents() for row in rows]


@pytest.mark.parametrize("method", ["planned", "pool:text,planned@other"])
def test_how_a_query_was_taken_apart_is_shown(
    show: Callable[..., tuple[Page, Seen]], make_run: MakeRun, method: str
) -> None:
    def answer(asked: str) -> str:
        told = json.loads(plan_of(asked))
        told["retrievals"][2]["text"] = HOSTILE[1]
        told["retrievals"].append({"by": "text", "text": "kept", "wanted": True})
        return json.dumps(told | {"join": "intersection"})

    failing: list[str] = []

    def fail(text: str, tries: int) -> Fault | None:
        failing.extend([text] if not failing else [])
        return Fault(400) if text in failing else None

    server = Running(Stub(answer=answer, plan=fail))
    other = {"encoders__other__model": "local-dir:data/models/clip"}
    run = make_run(**at(server, search__method=method, **other))
    with ThreadPoolExecutor(1) as apart:  # from the browser's event loop
        apart.submit(run_stages, run).result()
    server.stop()
    page, _ = show(run)
    failed = {query for query, plan in decompose.answered(run).items() if plan is None}
    assert 0 < len(failed) < len(run.queries)
    for query in run.queries:
        found = card(page, query.id)
        cells, change = plan_cells(found), query.relative_captions[0]
        title = found.locator("details:has(.plan) summary").inner_text()
        whole = ["reference image with text", change, "wanted"]
        if query.id in failed:
            assert title == "plan of planned: 1 retrieval"
            assert "the LLM made none" in found.locator(".failed").inner_text()
            assert cells == [whole]
            continue
        assert title == "plan of planned: intersection of 3 retrievals, less 1 unwanted"
        assert found.locator(".failed").count() == 0
        assert cells == [
            whole,
            ["reference image", "", "wanted"],
            ["text", printable(HOSTILE[1]), "taken away"],
            ["text", "kept", "wanted"],
        ]
    assert page.evaluate("window.broken") is None
    page.get_by_label("Filter").fill("kept")
    assert len(ids(page)) == len(run.queries) - len(failed)
    page.get_by_label("Filter").fill("")
    page.get_by_label("open all captions and plans").check()
    expect(page.locator(".plan").first).to_be_visible()
    decompose.record_file(run).file.unlink()
    page, _ = show(run)
    assert page.get_by_label("and plans").count() == 0
    assert "plans" in page.locator(".note").inner_text()
    assert page.locator(".plan").count() == 0


def test_roles_that_are_a_plan_are_shown_as_one(
    show: Callable[..., tuple[Page, Seen]], make_run: MakeRun
) -> None:
    """Beside another ranking, which has no plan."""
    settings = {"llm__prompt": "demo-roles", "captioner__samples": 3}
    run = make_run(search__method="planned-roles", **settings)
    run_stages(run)
    search.search(run.with_method("image"))
    page, _ = show(run.with_method("image"), other="planned-roles")
    said = edit.read_roles(run)
    for query in run.queries[:4]:
        own = said[query.id]
        ends = [Counter(own[role]).most_common(2) for role in ("desired", "preserve", "forbidden")]
        with_image, kept, never = ([text for text, _ in end] for end in ends)
        expected = [["reference image with text", text, "wanted"] for text in with_image]
        expected += [["text", text, "wanted"] for text in kept]
        expected += [["text", text, "taken away"] for text in never]
        assert plan_cells(card(page, query.id)) == expected
    page, _ = show(run.with_method("image"))
    assert page.locator(".plan").count() == 0


def test_what_is_gone_from_the_cache_is_said_and_the_rest_is_shown(
    show: Callable[..., tuple[Page, Seen]], runs: dict[str, Run], make_run: MakeRun
) -> None:
    run = make_run()
    shutil.copytree(runs["circo-val"].cache, run.cache)
    embed.image_file(run).unlink()
    page, _ = show(run)
    assert "not shown: features" in page.locator(".note").inner_text()
    text = card(page, run.queries[0].id).locator(".result").first.inner_text()
    assert "score" in text
    assert "absolute" not in text
    expect(page.locator(".query details").first).to_be_visible()
    caption.record_file(run).file.unlink()
    page, _ = show(run)
    assert "captions, edited captions, features" in page.locator(".note").inner_text()
    assert page.locator(".query details").count() == 0
    page.locator(".results").first.wait_for()
    search.ranking_file(run).file.unlink()
    with pytest.raises(MissingStageError, match="seize search"):
        report.report(run, run.cache / "report.html")


def test_an_image_that_cannot_be_read_leaves_a_gap(
    show: Callable[..., tuple[Page, Seen]], runs: dict[str, Run], make_run: MakeRun, tmp_path: Path
) -> None:
    whole = runs["circo-val"]
    root = tmp_path / "world"
    shutil.copytree(whole.dataset.root, root / "CIRCO")
    run = make_run(root=root)
    shutil.copytree(whole.cache, run.cache)
    run.dataset.images[search.read(run)[0].images[0]].write_bytes(b"no image")
    page, _ = show(run)
    first = card(page, run.queries[0].id).locator(".result").first
    assert "no picture" in first.inner_text()
    assert first.locator("img").count() == 0
    assert "1 images could not be read" in page.locator("header").inner_text()


def test_the_newest_tuning_of_this_very_run_is_shown(
    show: Callable[..., tuple[Page, Seen]], runs: dict[str, Run], make_run: MakeRun, tmp_path: Path
) -> None:
    run, folder = runs["circo-val"], tmp_path / "outputs"
    tuned = tune.tune(run, {"positive": [0.0, 0.13], "negative": [0.5, 1.0, 2.1]}, folder)
    other = make_run(search__normalise_texts=True)
    shutil.copytree(run.cache, other.cache)
    tune.tune(other, {"positive": [0.0, 0.7], "negative": [0.5, 1.0]}, folder)
    page, _ = show(run, outputs=folder)
    cells = page.locator(".heat g title").all_text_contents()
    assert len(cells) == 6
    best = ", ".join(f"{'α⁺' if n == 'positive' else 'α⁻'} {v:g}" for n, v in tuned.best.items())
    assert f"Best {tuned.value:.2f} at {best}" in page.locator(".figures").inner_text()
    assert "this ranking is the white frame" in page.locator(".figures").inner_text()
    own = page.locator("g:has(.own) title").text_content()
    assert own == f"α⁻ 2.1, α⁺ 0.13: {evaluate(run)['mAP@5']:.2f}"
    page, _ = show(run, tuned=tuned.csv)
    assert page.locator(".heat .best").count() == 1
    moved = make_run(search__method="pdv")
    search.search(moved)
    pdv = tune.tune(
        moved,
        {"blend": [0.1, 0.5], "image": [1.0, 2.0], "text": [1.0, 1.5]},
        folder,
    )
    with pytest.raises(InputError, match="not a table of `seize tune` for seize:"):
        show(run, tuned=pdv.csv)
    page, _ = show(moved, tuned=pdv.csv)
    assert page.locator(".heat g").count() == 4
    assert "Shown at steps from the caption" in page.locator(".figures").inner_text()
    page, _ = show(runs["circo-test"], outputs=folder)
    assert page.locator(".heat").count() == 0
    assert "No tuning" not in page.locator(".figures").inner_text(), "a test split has none"
    bad = tmp_path / "bad.csv"
    for content, message in [
        ("a,b\n1,2\n", "not a table of `seize tune`"),
        ("positive,mAP@5\n<b>,2\n", "not a table of `seize tune`"),
        ("positive,recall@1\n1,2\n", "no figures of mAP@5"),
        ("positive,mAP@5\n1,<b>\n", "no figures of mAP@5"),
        ("", "cannot be read as CSV"),
    ]:
        bad.write_text(content)
        with pytest.raises(InputError, match=message):
            report.report(run, tmp_path / "x.html", report.Options(tuned=bad))


def test_the_command_writes_the_page_and_tells_its_size(
    runs: dict[str, Run], tmp_path: Path, page: Page
) -> None:
    run, out = runs["circo-val"], tmp_path / "new" / "page.html"
    given = [*run.command.split(), "--cache", str(run.cache), "--workers", "0"]
    result = seize("report", *given, "--out", str(out), "--queries", "3", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["bytes"] == out.stat().st_size
    assert told["queries"] == 3
    page.goto(out.as_uri())
    assert ids(page) == [f"query {run.queries[i].id}" for i in (0, 4, 8)]
    result = seize("report", *given, "--out", str(out), "--megabytes", "0.01")
    assert result.exit_code == 0
    assert "12 queries" in result.stdout
    result = seize("report", *given, "--method", "text")
    assert result.exit_code == 4
    assert "Run: seize search" in result.stderr


def test_a_fingerprint_that_looks_like_a_number_is_one_of_this_run(
    show: Callable[..., tuple[Page, Seen]],
    runs: dict[str, Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, folder = runs["circo-val"], tmp_path / "outputs"
    for number in ("2357462e0301", "000000000012", "123456789012", "00000e000000"):
        for module in (tune, charts):
            monkeypatch.setattr(module, "identity", lambda *_, number=number: number)
        tuned = tune.tune(run, {"positive": [0.0], "negative": [0.5, 1.0]}, folder)
        assert charts.newest_tuning(run, folder) == tuned.csv
    page, _ = show(run, outputs=folder)
    assert page.locator(".heat g").count() == 2
    monkeypatch.setattr(charts, "identity", lambda *_: "2357462e0302")
    page, _ = show(run, outputs=folder)
    assert page.locator(".heat").count() == 0
    assert "No tuning of this run was found" in page.locator(".figures").inner_text()


def test_the_page_names_no_folder_of_the_texts_that_were_imported(
    show: Callable[..., tuple[Page, Seen]], runs: dict[str, Run], tmp_path: Path
) -> None:
    run = runs["cirr-val"]
    secret = tmp_path / "secret-project"
    files = export.export(run, secret)
    cache = tmp_path / "cache"
    shutil.copytree(run.cache, cache)
    one, two = released.import_files(run.dataset, files, cache, "mine-")
    captioner = run.config.captioner.model_copy(update={"model": f"imported:{one.name}"})
    llm = run.config.llm.model_copy(update={"model": f"imported:{two.name}"})
    config = run.config.model_copy(update={"captioner": captioner, "llm": llm})
    other = replace(run, config=config, cache=cache)
    run_stages(other)
    page, _ = show(other)
    assert "secret-project" not in page.content()
    assert str(tmp_path) not in page.content()
    assert files[0].name in (page.locator("main").text_content() or "")

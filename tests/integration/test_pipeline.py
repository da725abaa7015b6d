"""All stages on a small world with the models of the repository: nothing is stubbed."""

import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import InputError, MissingStageError
from pipeline.retrieval import ranking
from pipeline.retrieval.methods.increment import Increment
from pipeline.run import Run
from pipeline.stages import caption, edit, embed, embeddings, inputs, search, submit
from pipeline.stages.evaluate import evaluate, evaluate_files
from pipeline.stages.everything import run_stages
from pipeline.store.features import FeatureFile
from tests.conftest import PROJECT
from tests.holding import held_after, kill_once, wait_until

MakeRun = Callable[..., Run]


@pytest.mark.parametrize(
    ("name", "split"), [("circo", "val"), ("cirr", "val"), ("fashioniq", "val")]
)
def test_all_stages_end_in_metrics_and_submissions_and_a_rerun_computes_nothing(
    make_run: MakeRun, name: str, split: str
) -> None:
    run = make_run(name, split)
    reports, metrics = run_stages(run)
    assert metrics is not None
    assert all(0 <= value <= 100 for value in metrics.values())
    assert all(report.computed > 0 and not report.failed for report in reports)
    (searched,) = (report for report in reports if report.stage == "search")
    assert str(embeddings.text_file(run)) in searched.reads
    outputs = submit.files(run)
    assert set(outputs) == set(run.dataset.kinds)
    # The written files, read as anybody's predictions, give the same metrics as the ranking.
    assert evaluate_files(run.dataset, list(outputs.values())) == metrics
    again, same = run_stages(run)
    assert same == metrics
    assert [report.computed for report in again[:4]] == [0, 0, 0, 0]


def test_seize_finds_far_more_than_chance_and_than_the_relative_caption_alone(
    make_run: MakeRun,
) -> None:
    metrics = {}
    for method in ("seize", "text"):
        run = make_run(search__method=method)
        run_stages(run)
        metrics[method] = evaluate(run)["recall@10"]
    assert metrics["seize"] >= 40  # chance is below 7: 10 of 150 images
    assert metrics["seize"] > metrics["text"]


def test_search_equals_a_full_scan_written_from_the_formula(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "BLOCK", 17)
    run = make_run()
    run_stages(run)
    images = FeatureFile(embed.image_file(run))
    gallery = images.all().astype(np.float64)
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    texts = FeatureFile(embed.text_file(run))
    row = dict(zip(texts.names, texts.all().astype(np.float64), strict=True))
    captions, edits = caption.read(run), edit.read(run)
    alpha = Increment(**Increment.by_dataset["circo"])
    for query, retrieved in zip(run.queries, search.read(run), strict=True):
        described, edited = captions[query.id], edits[query.id]
        content = np.mean([row[text] for text in described], axis=0)
        composed = np.mean([row[text or ""] for text in edited], axis=0)
        before = gallery @ content / np.linalg.norm(content)
        after = gallery @ composed / np.linalg.norm(composed)
        gain = after - before
        score = after + alpha.positive * np.maximum(gain, 0) + alpha.negative * np.minimum(gain, 0)
        score[images.names.index(query.reference)] = -np.inf
        expected = np.sort(score)[::-1][:50]
        np.testing.assert_allclose(retrieved.scores, expected, atol=1e-5)
        assert query.reference not in retrieved.images
        found = score[[images.names.index(image) for image in retrieved.images]]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_ldre_equals_the_papers_formula_in_float64(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "BLOCK", 13)
    monkeypatch.setattr(inputs, "QUERIES", 5)
    run = make_run(
        "fashioniq", search__method="ldre", search__ldre__drops=3, search__ldre__temperature=0.1
    )
    run_stages(run)
    images = FeatureFile(embed.image_file(run))
    features = images.all().astype(np.float64)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    texts = FeatureFile(embed.text_file(run))
    rows = texts.all().astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    unit = dict(zip(texts.names, rows, strict=True))
    captions, edits = caption.read(run), edit.read(run)
    for query, found in zip(run.queries, search.read(run), strict=True):
        names = run.dataset.galleries[query.gallery]
        gallery = features[[images.names.index(name) for name in names]]
        u, answers = [], []
        for text, edited in zip(captions[query.id], edits[query.id], strict=True):
            answer = unit[edited or ""]
            drops = np.maximum(gallery @ unit[text] - gallery @ answer, 0)
            u.append(np.sort(drops)[-3:].sum())
            answers.append(answer)
        weights = np.exp(np.array(u) / max(u) / 0.1)
        score = gallery @ (np.array(answers).T @ (weights / weights.sum()))
        score[names.index(query.reference)] = -np.inf
        np.testing.assert_allclose(found.scores, np.sort(score)[::-1][:50], atol=1e-4)


def test_captions_do_not_depend_on_batch_or_order(make_run: MakeRun, tmp_path: Path) -> None:
    one = make_run(runtime__caption_batch=1)
    caption.caption(one)
    many = Run(one.dataset, one.config.model_copy(deep=True), tmp_path / "other", tmp_path)
    many.config.runtime.caption_batch = 5
    many.dataset.queries.reverse()
    try:
        caption.caption(many)
    finally:
        many.dataset.queries.reverse()
    assert caption.read(many) == caption.read(one)
    texts = next(iter(caption.read(one).values()))
    assert len(texts) == 15
    assert len(set(texts)) > 1


def test_fewer_samples_are_the_first_of_more(make_run: MakeRun) -> None:
    many, few = make_run(), make_run(captioner__samples=4)
    caption.caption(many)
    caption.caption(few)
    for image, texts in caption.read(few).items():
        assert texts == caption.read(many)[image][:4]


def held(write: str, count: int, run: Run, stage: str, *options: str) -> "subprocess.Popen[bytes]":
    """Start a stage that stands still after some writes."""
    command = [*held_after(write, count), stage, *run.command.split(), *options]
    folders = ["--cache", str(run.cache), "--submissions", str(run.submissions)]
    return subprocess.Popen(
        [*command, *folders, "--workers", "0"], cwd=PROJECT, stderr=subprocess.DEVNULL
    )


def lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


@pytest.mark.parametrize(
    ("stage", "option"), [("caption", "caption_batch"), ("edit", "edit_batch")]
)
def test_kill_9_then_rerun_equals_an_undisturbed_run(
    make_run: MakeRun, tmp_path: Path, stage: str, option: str
) -> None:
    run = make_run()
    undisturbed = Run(run.dataset, run.config, tmp_path / "undisturbed", tmp_path)
    caption.caption(undisturbed)
    edit.edit(undisturbed)
    caption.caption(run) if stage == "edit" else None
    module = {"caption": caption, "edit": edit}[stage]
    file = module.record_file(run).file
    samples = ("--captions", str(run.config.captioner.samples))
    process = held("line", 4, run, stage, "--set", f"runtime.{option}=1", *samples)
    kill_once(lambda: lines(file) >= 4, process)
    kept = len(module.record_file(run).read())
    report = getattr(module, stage)(run)
    assert report.cached == kept
    assert report.computed > 0
    assert module.read(run) == module.read(undisturbed)


def test_half_the_captions_are_not_enough_for_the_next_stage(make_run: MakeRun) -> None:
    trial = make_run()
    trial.dataset.limit(4)
    caption.caption(trial)
    run = make_run()
    with pytest.raises(MissingStageError, match=r"4 of 6 reference images.*Run: seize caption"):
        edit.edit(run)


def test_ctrl_c_ends_cleanly_and_the_rerun_resumes(make_run: MakeRun) -> None:
    run = make_run()
    file = caption.record_file(run).file
    process = held("line", 3, run, "caption", "--set", "runtime.caption_batch=1")
    wait_until(lambda: lines(file) >= 3, process)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert caption.caption(run).cached >= 2


def test_a_changed_prompt_makes_a_new_file_and_keeps_the_old(make_run: MakeRun) -> None:
    first, second = make_run(), make_run(llm__prompt="cirevl")
    caption.caption(first)
    edit.edit(first)
    before = edit.record_file(first).file.read_bytes()
    assert edit.record_file(second).file != edit.record_file(first).file
    with pytest.raises(MissingStageError, match=r"Run: seize edit --config demo --dataset circo"):
        edit.read(second)
    assert edit.record_file(first).file.read_bytes() == before


@pytest.fixture
def own_world(small_world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_world, tmp_path / "own"))


def test_broken_images_are_named_and_skipped(make_run: MakeRun, own_world: Path) -> None:
    run = make_run(root=own_world)
    used = {query.reference for query in run.queries}
    broken, gone = [name for name in run.dataset.images if name not in used][:2]
    run.dataset.images[broken].write_bytes(b"")
    run.dataset.images[gone].unlink()
    reference = run.queries[0].reference
    run.dataset.images[reference].write_bytes(b"not an image")
    reports, metrics = run_stages(run)
    assert metrics is not None
    failed = {name: reason for report in reports for name, reason in report.failed.items()}
    assert "is empty" in failed[broken]
    assert "does not exist" in failed[gone]
    assert "not an image" in failed[reference]
    assert "relative caption is used" in failed[f"query {run.queries[0].id}"]
    assert failed["gallery"].startswith("3 images have no feature")
    assert all(broken not in ranking.images for ranking in search.read(run))
    # Mended images are computed by the next run, the others come from the cache.
    shutil.copy(run.dataset.images[run.queries[-1].reference], run.dataset.images[broken])
    images = embed.embed(run)[0]
    assert images.computed == 1


def test_strict_ends_at_the_first_broken_image(make_run: MakeRun, own_world: Path) -> None:
    run = make_run(root=own_world, runtime__strict=True)
    run.dataset.images[run.queries[0].reference].write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        caption.caption(run)


def test_what_was_embedded_before_an_error_is_kept(make_run: MakeRun, own_world: Path) -> None:
    run = make_run(root=own_world, runtime__strict=True, runtime__embed_batch=10)
    broken = run.dataset.images[list(run.dataset.images)[55]]
    content = broken.read_bytes()
    broken.write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        embed.embed(run)
    broken.write_bytes(content)
    report = embed.embed(run)[0]
    assert report.cached == 59
    assert report.computed == len(run.dataset.images) - 59


def test_a_wrong_data_root_says_so(make_run: MakeRun, own_world: Path) -> None:
    run = make_run(root=own_world)
    shutil.rmtree(own_world / "CIRCO" / "COCO2017_unlabeled" / "unlabeled2017")
    with pytest.raises(InputError, match="Is --data-root right"):
        embed.embed(run)


def test_embedding_resumes_from_its_shards(make_run: MakeRun) -> None:
    run = make_run(runtime__shard=16, runtime__embed_batch=8)
    file = embed.image_file(run)
    options = ("--set", "runtime.shard=16", "--set", "runtime.embed_batch=8")
    process = held("shard", 2, run, "embed", *options)
    parts = file.with_name(file.name + ".parts")
    kill_once(lambda: len(list(parts.glob("*.safetensors"))) >= 2, process)
    assert not file.exists()
    report = embed.embed(run)[0]
    assert report.cached >= 16
    assert FeatureFile(file).names == list(run.dataset.images)
    assert not parts.exists()
    whole = make_run()
    other = Run(whole.dataset, whole.config, run.cache.parent / "whole", run.submissions)
    embed.embed(other)
    np.testing.assert_allclose(
        FeatureFile(file).all(), FeatureFile(embed.image_file(other)).all(), atol=1e-5
    )


def test_the_sidecar_tells_how_a_submission_was_made(make_run: MakeRun) -> None:
    run = make_run("circo", "test")
    _, metrics = run_stages(run)
    assert metrics is None
    (file,) = submit.files(run).values()
    predictions = json.loads(file.read_text())
    assert list(predictions) == [query.id for query in run.queries]
    assert all(len(set(images)) == 50 for images in predictions.values())
    sidecar = json.loads(file.with_suffix(".config.json").read_text())
    assert sidecar["config"]["captioner"]["samples"] == 15
    assert sidecar["search"]["settings"]["increment"]["negative"] == 2.1
    assert sidecar["complete"] is True


def test_copies_of_an_image_are_embedded_once_also_after_a_stop(
    make_run: MakeRun, own_world: Path
) -> None:
    run = make_run(root=own_world, runtime__strict=True, runtime__embed_batch=8, runtime__shard=8)
    names = list(run.dataset.images)
    for number in (1, 20, 90):
        shutil.copy(run.dataset.images[names[0]], run.dataset.images[names[number]])
    run.dataset.images[names[91]] = run.dataset.images[names[0]]  # the same file, listed twice
    broken = run.dataset.images[names[50]]
    content = broken.read_bytes()
    broken.write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        embed.embed(run)
    broken.write_bytes(content)
    report = embed.embed(run)[0]
    assert report.copies == 2  # the first two were found before the stop
    assert report.cached + report.computed + report.copies == len(names)
    features = FeatureFile(embed.image_file(run))
    assert features.names == names
    rows = features.all()
    for number in (1, 20, 90, 91):
        np.testing.assert_array_equal(rows[number], rows[0])
    assert len(np.unique(rows, axis=0)) == len(names) - 4

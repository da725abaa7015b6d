"""Queries of two images, of a benchmark and of one's own: every stage takes both."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from pipeline import config
from pipeline.errors import InputError
from pipeline.models import verifiers
from pipeline.models.inversion import towers
from pipeline.models.verifiers.base import Question, Verdict
from pipeline.own.folder import hash_of
from pipeline.own.gallery import Gallery
from pipeline.pages.report import report
from pipeline.pages.result import result_page
from pipeline.run import Run
from pipeline.stages import caption, edit, embed, search, verify
from pipeline.stages.everything import run_stages
from pipeline.stages.inputs import Inputs
from pipeline.store.features import FeatureFile
from pipeline.study import protocol
from tests.integration.test_cli import seize
from tests.integration.test_inversion import PHI, clue
from tests.unit.models.inversion.test_inversion import by_hand

MakeRun = Callable[..., Run]
SMALL = {"captioner__samples": 2}


def paired(run: Run) -> tuple[str, str]:
    """Give the run's first query a second image that no query has yet; return both."""
    first = run.queries[0]
    used = {name for query in run.queries for name in (query.reference, *query.relevant)}
    other = next(name for name in run.dataset.images if name not in used)
    run.dataset.queries[0] = replace(first, further=(other,))
    return first.reference, other


def unit(vector: NDArray[Any]) -> NDArray[np.float64]:
    made: NDArray[np.float64] = vector.astype(np.float64) / np.linalg.norm(vector)
    return made


def test_captions_edits_and_clues_are_of_all_images(make_run: MakeRun) -> None:
    plain, run = make_run(**SMALL), make_run(**SMALL)
    first, other = paired(run)
    assert run.references == [first, other, *plain.references[1:]]
    run_stages(run)
    by_image = caption.by_image(caption.record_file(run))
    query, *rest = (q.id for q in run.queries)
    said = caption.read(run)
    assert said[query] == [*by_image[first], *by_image[other]]
    made = edit.read(run)
    assert len(made[query]) == 4
    assert all(len(made[one]) == 2 for one in rest)
    source = Inputs(run)
    own = torch.stack([source.embed([text])[0] for text in said[query]]).mean(dim=0)
    np.testing.assert_allclose(source.clues.vectors("content")[0], unit(own.numpy()), atol=1e-6)
    images = source.images.all()
    both = images[[source.images.row[first], source.images.row[other]]].mean(axis=0)
    np.testing.assert_allclose(source.clues.vectors("reference")[0], unit(both), atol=1e-6)
    ranked, *others = search.read(run)
    assert len(ranked.images) == 50
    assert not {first, other} & set(ranked.images)
    run_stages(plain)
    assert others == search.read(plain)[1:], "the other queries' rankings are as they were"


def test_each_image_has_its_pseudo_word(make_run: MakeRun) -> None:
    run = make_run(search__method="lincir")
    pair = paired(run)
    run_stages(run)
    images = FeatureFile(embed.image_file(run))
    weights = {name: value.astype(np.float64) for name, value in load_file(PHI).items()}
    features = images.all()[[images.row[name] for name in pair]].astype(np.float64)
    words = torch.from_numpy(by_hand(features, weights)).float()
    clip = towers.load(run.config.clip, run.config.runtime)
    (text,) = run.queries[0].relative_captions
    ids = clip.tokenizer([f"thing and thing {text}"])
    places = (ids[0] == clip.tokenizer(["thing"])[0, 1]).nonzero()[:, 0]
    assert len(places) == 2
    model = clip.model
    with torch.no_grad():
        x = model.token_embedding(ids)
        x[0, places] = words
        x = model.transformer(x + model.positional_embedding, attn_mask=model.attn_mask)
        expected = model.ln_final(x)[0, int(ids.argmax())] @ model.text_projection
    np.testing.assert_allclose(clue(run).all()[0], unit(expected.numpy()), atol=1e-5)


def test_a_missing_image_leaves_the_other_and_says_how_many_queries_it_touches(
    make_run: MakeRun, small_world: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(small_world / "CIRCO", tmp_path / "CIRCO")
    run = make_run(root=root, **SMALL)
    first, other = paired(run)
    run.dataset.images[other].unlink()
    caption.caption(run)
    edit.edit(run)
    embed.embed(run)
    by_image = caption.by_image(caption.record_file(run))
    assert caption.read(run)[run.queries[0].id] == by_image[first]
    source = Inputs(run)
    touched = source.lacks("image")["gallery"]
    assert touched.startswith("1 images have no feature and cannot be retrieved; 1 of 12 queries")
    row = source.images.row[first]
    torch.testing.assert_close(source.references()[0], torch.from_numpy(source.images.all()[row]))
    assert [len(own) for own in source.reference_lists()] == [1] * 12


def test_a_verifier_is_shown_all_of_them_and_then_the_candidate(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier = {"verifier__prompt": "demo-change", "verifier__candidates": 3}
    run = make_run(search__method="image+verify", verifier__early_stop=False, **verifier)
    first, other = paired(run)
    run.dataset.queries = run.dataset.queries[:2]
    run_stages(run.unverified)
    asked: list[Question] = []

    class Noted:
        def judge(self, prompt: Any, questions: Any) -> Any:
            for question in questions:
                asked.append(question)
                yield Verdict(question.key, 0.5)

    monkeypatch.setattr(verifiers, "load", lambda *_: Noted())
    verify.verify(run)
    images = {path: name for name, path in run.dataset.images.items()}
    shown = [[images[file] for file in question.images] for question in asked]
    ranked = search.read(run.unverified)
    assert [own[:-1] for own in shown] == [[first, other]] * 3 + [[run.queries[1].reference]] * 3
    assert [own[-1] for own in shown] == [i for r in ranked for i in r.images[:3]]


def test_the_verifier_in_process_takes_several_images(make_run: MakeRun) -> None:
    verifier = {"verifier__prompt": "demo-change", "verifier__candidates": 2}
    run = make_run(search__method="image+verify", verifier__early_stop=False, **verifier)
    paired(run)
    run.dataset.queries = run.dataset.queries[:2]
    run_stages(run.unverified)
    (report,) = verify.verify(run)
    assert not report.failed
    judged = search.read(run)
    assert [sum(p is not None for p in r.probabilities) for r in judged] == [2, 2]


def test_a_list_that_holds_any_of_them_tells_that_they_were_kept(make_run: MakeRun) -> None:
    run = make_run()
    _, other = paired(run)
    query, third = run.queries[0].id, run.queries[0].relevant[0]
    told = {
        image: protocol.seen(protocol.UNTOLD, run.dataset, {"recall": {query: [image]}}).reference
        for image in (other, third)
    }
    assert told == {other: "kept", third: protocol.UNKNOWN}


def test_the_report_shows_all(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(search__method="image")
    first, other = paired(run)
    run_stages(run)
    assert first != other
    file = tmp_path / "report.html"
    report(run, file)
    _, data = file.read_text().split('<script type="application/json" id="data">')
    content = json.loads(data.split("</script>")[0])
    shown = [content["images"][i] for i in content["queries"][0]["references"]]
    assert shown == [first, other]


@pytest.fixture(scope="module")
def gallery(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    root = tmp_path_factory.mktemp("own")
    (root / "photos").mkdir()
    for file in sorted((small_world / "CIRCO").rglob("*.jpg"))[:30]:
        shutil.copy(file, root / "photos")
    settings = config.load("demo", {"runtime.workers": 0, "captioner.samples": 2})
    made = Gallery(root / "photos", settings, root / "cache")
    made.index()
    return made


def test_a_query_of_ones_own_takes_several_images(gallery: Gallery) -> None:
    one, two = sorted(gallery.folder.root.iterdir())[:2]
    alone = [gallery.query(file, "is blue") for file in (one, two)]
    both = gallery.query([one, two], "is blue")
    assert both.references == tuple(hash_of(file.read_bytes()) for file in (one, two))
    assert both.captions == alone[0].captions + alone[1].captions
    assert both.edited_captions == alone[0].edited_captions + alone[1].edited_captions
    assert not {one.name, two.name} & set(both.paths)
    assert {one.name} & set(gallery.with_search(top_k=30).query(two, "is blue").paths)
    assert gallery.query([one], "is blue") == alone[0]
    assert gallery.query([one, one], "is blue").references == alone[0].references
    assert (
        both.rerank(method="image").paths
        == gallery.with_search(method="image").query((two, one), "is blue").paths
    )
    assert result_page(both).count('alt="the reference image"') == 2
    assert gallery.query([], "is blue").references == ()
    with pytest.raises(InputError, match="nothing to search by"):
        gallery.query([], " ")


def test_seize_query_takes_several_images(gallery: Gallery) -> None:
    one, two = sorted(gallery.folder.root.iterdir())[:2]
    options = ("--gallery", str(gallery.folder.root), "--config", "demo", "--json")
    options += ("--cache", str(gallery.folder.root.parent / "cache"))
    options += ("--set", "captioner.samples=2", "--set", "runtime.workers=0")
    done = seize("query", str(one), str(two), "is blue", *options)
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    expected = gallery.query([one, two], "is blue")
    assert (found["reference"], *found["further"]) == expected.references
    assert [image["path"] for image in found["images"]] == expected.paths[:10]
    lost = seize("query", str(one), "nowhere.jpg", "is blue", *options)
    assert lost.exit_code != 0
    assert "nowhere.jpg does not exist" in lost.output

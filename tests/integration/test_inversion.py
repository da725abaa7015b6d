"""Textual inversion from end to end on the small world, with the demo's φ: nothing is stubbed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file
from safetensors.torch import save_file
from torchvision.transforms import v2

from pipeline import config
from pipeline.errors import ConfigError, ModelError
from pipeline.models.inversion import checkpoints, towers
from pipeline.models.inversion.networks import Phi, Pic2Word
from pipeline.own import checks
from pipeline.own.gallery import Gallery
from pipeline.retrieval import methods
from pipeline.run import Run
from pipeline.stages import embed, inputs, search, submit
from pipeline.stages.everything import run_stages
from pipeline.store.features import FeatureFile
from tests.conftest import PROJECT
from tests.integration.test_cli import seize
from tests.unit.models.inversion.test_inversion import by_hand, fti4cir_by_hand, released_module

MakeRun = Callable[..., Run]
PHI = PROJECT / "data" / "models" / "phi" / "lincir.safetensors"


def clue(run: Run, name: str = "lincir") -> FeatureFile:
    (one,) = (c for c in methods.clues_of(name).values() if c.by_model)
    return FeatureFile(inputs.clue_file(run, one))


def expected(run: Run, query: int, texts: list[str]) -> NDArray[np.float64]:
    """A query's feature by hand: φ in float64, and its word put in by a plain forward pass."""
    images = FeatureFile(embed.image_file(run))
    reference = images.all()[images.row[run.queries[query].reference]].astype(np.float64)
    weights = {name: value.astype(np.float64) for name, value in load_file(PHI).items()}
    word = by_hand(reference, weights)
    clip = towers.load(run.config.clip, run.config.runtime)
    total = np.zeros(images.shape[1])
    for text in texts:
        ids = clip.tokenizer([f"thing {text}"])
        (place,) = (ids[0] == clip.tokenizer(["thing"])[0, 1]).nonzero()[0].tolist()[:1]
        model = clip.model
        with torch.no_grad():
            x = model.token_embedding(ids)
            x[0, place] = torch.from_numpy(word).float()
            x = model.transformer(x + model.positional_embedding, attn_mask=model.attn_mask)
            feature = model.ln_final(x)[0, int(ids.argmax())] @ model.text_projection
        made = feature.double().numpy()
        total += made / np.linalg.norm(made)
    return total / np.linalg.norm(total)


def test_lincir_runs_without_captioner_and_llm(make_run: MakeRun) -> None:
    nowhere = {"captioner__model": "/nowhere/captioner", "llm__model": "transformers:/nowhere/llm"}
    run = make_run("circo", search__method="lincir", **nowhere)
    reports, metrics = run_stages(run)
    assert metrics is not None
    assert {report.stage for report in reports} == {"embed", "search", "submit"}
    kept = [file for file in run.cache.rglob("*") if file.is_file() and file.parent != run.cache]
    made = {file.parent.name for file in kept}
    assert made <= {"images", "clues", "search"}, "no captions, no edits, no features of texts"
    stored = clue(run)
    assert stored.names == [query.id for query in run.queries]
    gallery = FeatureFile(embed.image_file(run))
    unit = gallery.all() / np.linalg.norm(gallery.all(), axis=1, keepdims=True)
    for place, ranking in enumerate(search.read(run)):
        query = run.queries[place]
        vector = expected(run, place, list(query.relative_captions))
        np.testing.assert_allclose(stored.all()[place], vector, atol=1e-5)
        scores = {name: unit[row] @ vector for name, row in gallery.row.items()}
        found = [scores[image] for image in ranking.images]
        np.testing.assert_allclose(ranking.scores, found, atol=1e-5)
    assert all(report.computed == 0 for report in run_stages(run)[0] if report.stage == "embed")


def test_fashioniqs_two_captions_are_stripped_and_averaged_in_both_orders(
    make_run: MakeRun,
) -> None:
    run = make_run("fashioniq", search__method="lincir")
    run_stages(run)
    for place, query in enumerate(run.queries):
        one, other = (caption.strip(".?, ") for caption in query.relative_captions)
        both = expected(run, place, [f"{one} and {other}", f"{other} and {one}"])
        np.testing.assert_allclose(clue(run).all()[place], both, atol=1e-5)


def test_the_increment_is_stacked_on_lincirs_query(make_run: MakeRun) -> None:
    run = make_run("circo", search__method="seize+lincir")
    run_stages(run)
    weights = methods.settings(run.config, "seize+lincir", "circo")[0]
    alone = run.with_method("lincir")
    query = clue(alone).all()
    found = inputs.Inputs(run).clues
    content, composed = (found.vectors(name).numpy() for name in ("content", "composed"))
    gallery = FeatureFile(embed.image_file(run))
    unit = gallery.all() / np.linalg.norm(gallery.all(), axis=1, keepdims=True)
    positive, negative = (getattr(weights, name) for name in ("positive", "negative"))
    for place, ranking in enumerate(search.read(run)):
        rise = unit @ (composed[place] - content[place])
        score = unit @ query[place]
        score += positive * np.maximum(rise, 0) + negative * np.minimum(rise, 0)
        rows = [gallery.row[image] for image in ranking.images]
        np.testing.assert_allclose(ranking.scores, score[rows], atol=1e-4)
    # What was made for one method serves the other.
    assert clue(alone).file == clue(run, "seize+lincir").file


@pytest.fixture
def fine(tmp_path: Path) -> Path:
    """FTI4CIR's released module, of the demo's widths and random weights."""
    torch.manual_seed(5)
    file = tmp_path / "model_60.pth"
    released_module(file, 128, 128, 96)
    return file


FINE_PROMPTS = {
    "fti4cir": "a photo of {subject} with {attributes} but {text}",
    "fti4cir-subject": "a photo of {subject} but {text}",
    "fti4cir-attributes": "a photo of something with {attributes} but {text}",
}


def expected_fine(run: Run, query: int, template: str, weights: dict[str, Any]) -> Any:
    """FTI4CIR's query by hand: tokens, subject and attributes in float64, put in by place."""
    clip = towers.load(run.config.clip, run.config.runtime)
    model: Any = clip.model
    asked = run.queries[query]
    picture = clip.prepare(Image.open(run.dataset.images[asked.reference]))[None]
    pixels = v2.functional.normalize(picture.float() / 255, list(clip._mean), list(clip._std))
    with torch.no_grad():
        tokens = model.visual.transformer(model.visual._embeds(pixels))[0]
        feature = model.encode_image(pixels)[0]
    subject, attributes, count = fti4cir_by_hand(
        feature.double().numpy(), tokens.double().numpy(), weights
    )
    runs = {"subject": subject[None], "attributes": attributes[:count]}
    (text,) = asked.relative_captions
    places: list[tuple[int, Any]] = []
    said: list[str] = []
    for word in template.replace("{text}", text).split():
        if word.strip("{}") in runs:
            for vector in runs[word.strip("{}")]:
                places.append((1 + len(said), vector))
                said.append("thing")
        else:
            said.append(word)
    ids = clip.tokenizer([" ".join(said)])
    with torch.no_grad():
        x = model.token_embedding(ids)
        for place, vector in places:
            x[0, place] = torch.from_numpy(vector).float()
        x = model.transformer(x + model.positional_embedding, attn_mask=model.attn_mask)
        made = (model.ln_final(x)[0, int(ids.argmax())] @ model.text_projection).double().numpy()
    return made / np.linalg.norm(made)


@pytest.mark.parametrize("prompt", FINE_PROMPTS)
def test_fti4cir_puts_in_subject_and_attributes(prompt: str, make_run: MakeRun, fine: Path) -> None:
    given = {"search__fti4cir__phi": str(fine), "search__fti4cir__prompt": prompt}
    run = make_run("circo", search__method="fti4cir", **given)
    reports, metrics = run_stages(run)
    assert metrics is not None
    assert {report.stage for report in reports} == {"embed", "search", "submit"}
    weights = {name: value.double().numpy() for name, value in checkpoints.tensors(fine).items()}
    stored = clue(run, "fti4cir")
    for place, query in enumerate(run.queries):
        assert all(word.isalpha() for word in query.relative_captions[0].split())
        made = expected_fine(run, place, FINE_PROMPTS[prompt], weights)
        np.testing.assert_allclose(stored.all()[place], made, atol=1e-4)


@pytest.mark.parametrize(
    ("dataset", "split", "files"), [("circo", "test", 1), ("cirr", "test1", 2)]
)
def test_both_servers_take_what_lincir_submits(
    dataset: str, split: str, files: int, make_run: MakeRun
) -> None:
    run = make_run(dataset, split, search__method="lincir")
    run_stages(run)
    written = list(submit.files(run).values())
    assert len(written) == files
    few = len(run.dataset.images) < 51  # the small world's gallery cannot fill a list of 50
    for file in written:
        assert [e for e in run.dataset.check(file).errors if not (few and "50" in e)] == []
        content = json.loads(file.read_text())
        assert {query.id for query in run.queries} <= content.keys()


def test_fti4cir_needs_an_image_tower_with_tokens_and_its_own_prompt(
    make_run: MakeRun, fine: Path, tmp_path: Path
) -> None:
    run = make_run(search__method="lincir", search__lincir__prompt="fti4cir")
    with pytest.raises(ConfigError, match=r"for FTI4CIR's pseudo-words; lincir makes only"):
        run_stages(run)
    given = {"search__method": "fti4cir", "search__fti4cir__phi": str(fine)}
    run = make_run(**given, clip__model="RN50", clip__pretrained="openai")
    with pytest.raises(ConfigError, match="image tower of RN50 gives no tokens"):
        Gallery(tmp_path, run.config, tmp_path / "cache")
    run = make_run(**given, clip__model="ViT-L-14", clip__pretrained="openai")
    with pytest.raises(ModelError, match=r"128 x 96 x 128, this encoder's 768 x 768 x 1024"):
        Gallery(tmp_path, run.config, tmp_path / "cache")


def test_a_reference_that_cannot_be_read_is_said_and_has_a_word_instead(
    make_run: MakeRun, fine: Path, tmp_path: Path
) -> None:
    given = {"search__fti4cir__phi": str(fine), "search__fti4cir__prompt": "fti4cir"}
    run = make_run(search__method="fti4cir", **given)
    embed.embed(run)
    lost = run.queries[0].reference
    (tmp_path / "lost.jpg").write_bytes(b"no image")
    run.dataset.images[lost] = tmp_path / "lost.jpg"
    (report,) = inputs.make_clues(run)
    count = sum(query.reference == lost for query in run.queries)
    assert report.notes[0].startswith(f"{count} reference images could not be read")
    vector = clue(run, "fti4cir").all()[0]
    clip = towers.load(run.config.clip, run.config.runtime)
    (text,) = run.queries[0].relative_captions
    plain = clip.texts([f"a photo of something with something but {text}"])[0]
    np.testing.assert_allclose(vector, plain / np.linalg.norm(plain), atol=1e-5)


def test_another_backbone_is_refused_with_both_shapes_before_anything_is_embedded(
    make_run: MakeRun, tmp_path: Path
) -> None:
    other, words = tmp_path / "other.safetensors", tmp_path / "words.safetensors"
    save_file(Phi(64, 96).state_dict(), other)
    save_file(Pic2Word(128, 96).state_dict(), words)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"search__lincir__phi": str(other)}, "64 x 96, this encoder's 128 x 96"),
        ({"search__lincir__phi": str(words)}, "holds a network Pic2Word"),
        ({"search__lincir__phi": str(tmp_path / "none.pt")}, "There is no file"),
    ]
    for given, said in refused:
        run = make_run(search__method="lincir", **given)
        with pytest.raises(ModelError, match=said):
            run_stages(run)
        assert not run.cache.exists() or not list(run.cache.rglob("*.safetensors"))
        with pytest.raises(ModelError, match=said):
            Gallery(tmp_path, run.config, tmp_path / "cache")
    run = make_run(search__method="searle")
    with pytest.raises(ConfigError, match=r"--set search\.searle\.phi=FILE"):
        run_stages(run)
    with pytest.raises(ConfigError, match=r"--set search\.searle\.phi=FILE"):
        checks.query(tmp_path, run.config)
    with pytest.raises(ConfigError, match=r"--set search\.searle\.phi=FILE"):
        search.ranking_file(run)  # not a name by the files of the folder one works in
    with pytest.raises(ConfigError, match="no inversion prompt 'linzir'"):
        run_stages(make_run(search__method="lincir", search__lincir__prompt="linzir"))
    with pytest.raises(ConfigError, match=r"search\.lincir has no 'phy'"):
        methods.check(make_run(search__lincir__phy="x").config, ("circo",))


def test_all_leaves_out_what_has_no_weights_or_was_not_made(make_run: MakeRun) -> None:
    run_stages(make_run(search__method="text"))
    run = make_run(search__method="all")
    assert {"lincir", "seize+lincir"} <= set(inputs.texts.selection(run))
    assert not {"searle", "pic2word", "fti4cir"} & set(inputs.texts.selection(run))
    assert "lincir" not in inputs.ready(run)
    inputs.make_clues(run.with_method("lincir"))
    assert {"lincir", "seize+lincir"} <= set(inputs.ready(run))


def test_weights_and_prompt_are_what_a_ranking_is_known_by(
    make_run: MakeRun, tmp_path: Path
) -> None:
    def file(**given: Any) -> Path:
        return search.ranking_file(make_run(search__method="lincir", **given)).file

    moved = tmp_path / PHI.name
    moved.write_bytes(PHI.read_bytes())
    assert file(search__lincir__phi=str(moved)) == file(), "where the weights are changes nothing"
    other = tmp_path / "other.safetensors"
    save_file(Phi(128, 96).state_dict(), other)
    assert file(search__lincir__phi=str(other)) != file()
    prompt = tmp_path / "prompt.yaml"
    prompt.write_text(
        yaml.safe_dump({"name": "x", "description": "x", "template": "{words} but {text}"})
    )
    assert file(search__lincir__prompt=str(prompt)) != file()


def test_a_prompt_that_was_cut_is_counted(make_run: MakeRun, small_world: Path) -> None:
    run = make_run(search__method="lincir")
    query = run.dataset.queries[0]
    object.__setattr__(query, "relative_captions", ("is red " * 30,))
    embed.embed(run)
    for _ in range(2):  # made, then from the cache
        (report,) = inputs.make_clues(run)
        assert len(report.notes) == 1
        assert report.notes[0].startswith(f"1 of {len(run.queries)} prompts")


def test_a_query_of_ones_own_needs_neither_captioner_nor_llm(
    small_world: Path, tmp_path: Path
) -> None:
    pictures = sorted((small_world / "CIRCO").rglob("*.jpg"))[:20]
    photos = tmp_path / "photos"
    photos.mkdir()
    for picture in pictures:
        (photos / picture.name).write_bytes(picture.read_bytes())
    given = ["--config", "demo", "--cache", str(tmp_path / "cache"), "--clip"]
    given.append(f"local-dir:{PROJECT / 'data' / 'models' / 'clip'}")
    assert seize("index", str(photos), *given, "--workers", "0").exit_code == 0
    absent = ("--captioner", "/nowhere", "--llm", "transformers:/nowhere")
    result = seize(
        *("query", str(pictures[0]), "has a dark background", "--gallery", str(photos)),
        *(*given, *absent, "--method", "lincir", "--top-k", "5", "--json"),
    )
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert (content["captions"], content["edited_captions"]) == ([], [])
    assert len(content["images"]) == 5
    assert not list((tmp_path / "cache").rglob("*.jsonl")) or not any(
        file.parent.name in ("caption", "edit") for file in (tmp_path / "cache").rglob("*.jsonl")
    )
    # FTI4CIR looks at the image itself, when it is asked about and when it is ranked again.
    released_module(tmp_path / "model.pth", 128, 128, 96)
    fine = {"search.method": "fti4cir", "search.fti4cir.phi": str(tmp_path / "model.pth")}
    gallery = Gallery(photos, config.load("demo", fine), tmp_path / "cache")
    asked = gallery.query(pictures[0], "has a dark background")
    anew = Gallery(photos, config.load("demo", fine), tmp_path / "cache")
    again = anew.rank([asked.reference], "has a dark background", [], [])
    assert again.paths == asked.paths
    assert asked.paths != gallery.with_search(method="text").query(pictures[0], "is red").paths
    # The same images, in the same order, by the feature that a run would make.
    gallery = Gallery(photos, config.load("demo", {"search.method": "lincir"}), tmp_path / "cache")
    ranked = gallery.query(pictures[0], "has a dark background")
    assert [image["path"] for image in content["images"]] == ranked.paths[:5]

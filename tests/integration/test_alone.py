"""Searching by a text alone, by images alone, and away from what is not wanted."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from pipeline import config
from pipeline.cli import main
from pipeline.errors import InputError
from pipeline.own.gallery import Gallery
from pipeline.own.unwanted import WEIGHT
from pipeline.retrieval.scoring import normalise

SETTINGS = config.load("demo", {"runtime.workers": 0, "own.group_at": None})
TEXT = "three large red stars on a dark background"


@pytest.fixture(scope="module")
def gallery(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    root = tmp_path_factory.mktemp("alone") / "photos"
    root.mkdir()
    for picture in sorted((small_world / "CIRCO").rglob("*.jpg"))[:40]:
        shutil.copy(picture, root)
    made = Gallery(root, SETTINGS, root.parent / "cache")
    made.index()
    return made


def models(gallery: Gallery) -> int:
    """How many captions and edits were ever kept."""
    return sum(
        file.read_bytes().count(b"\n")
        for file in (gallery.folder.cache / "queries").rglob("*.jsonl")
    )


def test_a_text_alone_ranks_by_it_and_asks_neither_captioner_nor_llm(gallery: Gallery) -> None:
    before = models(gallery)
    found = gallery.query(None, TEXT)
    assert models(gallery) == before
    feature = normalise(gallery._shared.embed_texts([TEXT]))[0]
    expected = (gallery._images.gallery.features @ feature).topk(40)
    assert [image.score for image in found.images] == pytest.approx(
        expected.values.tolist(), abs=1e-6
    )
    assert found.settings.method == "text"
    assert found.references == ()
    assert found.rerank(top_k=3).paths == found.paths[:3]


def test_images_alone_rank_by_them(gallery: Gallery) -> None:
    first, second = sorted(gallery.folder.root.iterdir())[:2]
    found = gallery.query(first)
    assert found.settings.method == "image"
    assert first.name not in found.paths
    assert found.paths == gallery.with_search(method="image").query(first, "whatever").paths
    both = gallery.query([first, second])
    assert not {first.name, second.name} & set(both.paths)


def test_nothing_at_all_is_refused(gallery: Gallery) -> None:
    with pytest.raises(InputError, match="nothing to search by"):
        gallery.query(None, "  ")


@pytest.mark.parametrize("method", ["text", "seize", "seize-rank"])
def test_what_is_not_wanted_counts_against_by_its_similarity(gallery: Gallery, method: str) -> None:
    chosen = gallery.with_search(method=method, top_k=39)
    picture = sorted(gallery.folder.root.iterdir())[0]
    wanted = chosen.query(picture, TEXT)
    other = sorted(gallery.folder.root.iterdir())[7]
    found = chosen.query(picture, TEXT, unlike=["a striped background", other])
    assert other.name not in found.paths
    assert found.paths != wanted.paths
    images = gallery._images
    text = normalise(gallery._shared.embed_texts(["a striped background"]))[0]
    image = images.gallery.features[images.row[found.unwanted.images[0]]]
    away = normalise(torch.stack([text, image]).mean(dim=0))
    if method != "seize-rank":
        before = {image.path: image.score for image in wanted.images}
        for one in found.images:
            less = float(images.gallery.features[images.row[one.hash]] @ away)
            assert one.score == pytest.approx(before[one.path] - WEIGHT * less, abs=1e-5)
    assert found.rerank(top_k=5).paths == found.paths[:5], "what is not wanted stays so"


def seize(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_takes_each_of_them(gallery: Gallery) -> None:
    where = ("--gallery", gallery.folder.root, "--cache", gallery.folder.cache, "--config", "demo")
    picture = sorted(gallery.folder.root.iterdir())[0]
    text = json.loads(seize("query", TEXT, *where, "--json").stdout)
    assert text["method"] == "text"
    assert [image["path"] for image in text["images"]] == gallery.query(None, TEXT).paths[:10]
    image = json.loads(seize("query", picture, *where, "--json").stdout)
    assert image["method"] == "image"
    unlike = seize("query", TEXT, *where, "--json", "--unlike", "stripes", "--unlike", picture)
    told = json.loads(unlike.stdout)["unlike"]
    assert told["texts"] == ["stripes"]
    assert len(told["images"]) == 1
    for wrong in (("query", "not-there.jpg"), ("query", TEXT, "--unlike", "not-there.png")):
        refused = seize(*wrong, *where)
        assert refused.exit_code == 3
        assert "does not exist" in refused.stderr
    page = gallery.folder.root.parent / "text.html"
    assert seize("query", TEXT, *where, "--out", page).exit_code == 0
    assert "the reference image" not in page.read_text(encoding="utf-8")


def test_a_file_of_queries_is_answered_line_by_line(gallery: Gallery, tmp_path: Path) -> None:
    where = ("--gallery", gallery.folder.root, "--cache", gallery.folder.cache, "--config", "demo")
    where = (*where, "--no-group")
    first, second = sorted(gallery.folder.root.iterdir())[:2]
    (tmp_path / "broken.png").write_bytes(b"no image")
    file = tmp_path / "pairs.csv"
    lines = [("image", "text"), (first, TEXT), ("", "=red"), (second, ""), ("broken.png", "is red")]
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(lines)
    done = seize("query", "--batch", file, *where, "--top-k", 3)
    assert done.exit_code == 0, done.stderr
    rows = list(csv.DictReader(done.stdout.splitlines()))
    paths = [[row["path"] for row in rows if row["line"] == str(line)] for line in (2, 3, 4)]
    asked = [gallery.query(first, TEXT), gallery.query(None, "=red"), gallery.query(second)]
    assert paths == [one.paths[:3] for one in asked]
    assert rows[3]["text"] == "'=red"
    assert "cannot be" in rows[-1]["error"] or "not an image" in rows[-1]["error"]
    assert "1 of 4 queries failed" in done.stderr
    written = seize("query", "--batch", file, *where, "--top-k", 3, "--out", tmp_path / "found.csv")
    assert written.exit_code == 0
    assert (tmp_path / "found.csv").read_text(encoding="utf-8") == done.stdout


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"image,text\n,\n", "line 2: neither image nor text"),
        (b"image,text\nno.jpg,is red\n", "line 2: .*no.jpg does not exist"),
        (b"picture,text\na.jpg,is red\n", "the columns image and text"),
        (b"image,text\n", "the columns image and text, and a query"),
        (b"image,text\n\xff,x\n", "as a CSV in UTF-8"),
    ],
)
def test_a_file_of_queries_that_is_none_is_refused_before_any(
    gallery: Gallery, tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "pairs.csv").write_bytes(content)
    done = seize(
        "query", "--batch", tmp_path / "pairs.csv", "--gallery", gallery.folder.root, "--config",
        "demo", "--cache", gallery.folder.cache,
    )  # fmt: skip
    assert done.exit_code == 3
    assert re.search(said, done.stderr)

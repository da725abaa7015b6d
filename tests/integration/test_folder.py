"""A folder of images is indexed once, kept up to date, and searched by the demo's own models."""

import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

import pipeline
from pipeline import config
from pipeline.cli import main
from pipeline.errors import ConfigError, InputError, MissingStageError, ModelError, StorageError
from pipeline.images.files import HEIF, read_image
from pipeline.models import encoders, llms
from pipeline.models.llms import Answer, Request
from pipeline.own import folder, listing, metadata
from pipeline.own.checks import lacking
from pipeline.own.folder import Folder, hash_of
from pipeline.own.gallery import Gallery
from pipeline.own.loaded import Images
from pipeline.pages.result import write_page
from pipeline.retrieval import methods
from pipeline.run import StageReport, counted
from pipeline.store import snapshots
from pipeline.store.features import FeatureFile
from pipeline.store.segments import folder_of, manifest_of
from tests.conftest import PROJECT
from tests.holding import SEIZE, held_after, kill_once
from tests.stub import Fault, Running, Stub

SETTINGS = config.load(
    "demo", {"runtime.workers": 0, "runtime.embed_batch": 4, "own.group_at": None}
)
CHANGE = "has a dark background"
EVERY = [name for name in methods.selection("all", lacking(SETTINGS)) if not methods.by_model(name)]


@pytest.fixture
def pictures(small_world: Path) -> list[Path]:
    return sorted((small_world / "CIRCO").rglob("*.jpg"))[:30]


@pytest.fixture
def photos(tmp_path: Path, pictures: list[Path]) -> Path:
    """A tree of 24 pictures, old enough that their times can be trusted."""
    root = tmp_path / "photos"
    for number, picture in enumerate(pictures[:24]):
        place = root / ("holiday/2024" if number % 2 else ".") / f"{number:02}.jpg"
        put(picture, place)
    return root


def put(picture: Path, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(picture, file)
    os.utime(file, (time.time() - 100, time.time() - 100))


def opened(root: Path) -> Folder:
    return folder.open_folder(root, SETTINGS, root.parent / "cache")


def features(root: Path) -> dict[str, list[float]]:
    """What is searched: each indexed path's feature."""
    made = opened(root)
    images = Images(made)
    rows = {name: images.raw(row).numpy().round(4).tolist() for name, row in images.row.items()}
    return {path: rows[name] for path, name in made.hashes().items() if name in rows}


def test_only_new_and_changed_images_are_embedded(photos: Path, pictures: list[Path]) -> None:
    report = folder.index(opened(photos))
    assert (report.computed, report.cached, report.failed) == (24, 0, {})
    assert folder.index(opened(photos)).computed == 0
    (photos / "00.jpg").rename(photos / "renamed.JPG")
    put(pictures[3], photos / "copy.jpg")
    assert folder.index(opened(photos)).computed == 0, "renames and copies cost nothing"
    put(pictures[24], photos / "new.jpg")
    put(pictures[25], photos / "02.jpg")
    (photos / "04.jpg").unlink()
    shutil.rmtree(photos / "holiday")
    report = folder.index(opened(photos))
    assert report.computed == 2
    found = features(photos)
    assert found.keys() == {p.relative_to(photos).as_posix() for p in photos.rglob("*.[jJ]*")}
    # The same as an index made from nothing.
    shutil.rmtree(photos.parent / "cache")
    folder.index(opened(photos))
    fresh = features(photos)
    assert fresh.keys() == found.keys()
    np.testing.assert_allclose(list(fresh.values()), list(found.values()), atol=1e-3)


def test_a_change_that_keeps_size_and_time_is_seen_if_it_came_right_after(
    photos: Path, pictures: list[Path]
) -> None:
    file = photos / "00.bmp"
    image = Image.new("RGB", (32, 32), "red")
    image.save(file)
    status = file.stat()
    folder.index(opened(photos))
    before = features(photos)["00.bmp"]
    Image.new("RGB", (32, 32), "blue").save(file)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_size == status.st_size
    assert folder.index(opened(photos)).computed == 1
    assert features(photos)["00.bmp"] != before


@pytest.mark.parametrize("how", ["in place", "another file"])
def test_other_bytes_of_the_same_size_and_time_are_seen_whenever_they_came(
    photos: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(listing, "SETTLED", 0)  # as if it were long ago
    file = photos / "00.bmp"
    Image.new("RGB", (32, 32), "red").save(file)
    os.utime(file, (1e9, 1e9))
    folder.index(opened(photos))
    assert folder.index(opened(photos)).cached == 25
    before = features(photos)["00.bmp"]
    other = file if how == "in place" else photos.parent / "other.bmp"
    Image.new("RGB", (32, 32), "blue").save(other)
    os.utime(other, (1e9, 1e9))
    other.replace(file)
    with pytest.raises(InputError, match=r"00\.bmp has changed .* Run: seize index"):
        opened(photos).read("00.bmp", opened(photos).hashes()["00.bmp"])
    assert folder.index(opened(photos)).computed == 1
    assert features(photos)["00.bmp"] != before
    assert opened(photos).read("00.bmp", opened(photos).hashes()["00.bmp"]) == file.read_bytes()


def test_a_folder_that_is_swapped_for_a_link_lets_nothing_in(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened(photos)
    content = (photos / "holiday/2024/01.jpg").read_bytes()
    assert source.read("holiday/2024/01.jpg", hash_of(content)) == content
    shutil.copytree(photos / "holiday", photos.parent / "outside")  # the very same bytes
    resolved = Folder.file

    def swapped(self: Folder, path: str) -> Path:
        """Resolve a path, and be overtaken before it is opened."""
        found = resolved(self, path)
        if not (photos / "holiday").is_symlink():
            (photos / "holiday").rename(photos / "was")
            (photos / "holiday").symlink_to(photos.parent / "outside")
        return found

    monkeypatch.setattr(Folder, "file", swapped)
    with pytest.raises(InputError, match="cannot be read"):
        source.read("holiday/2024/01.jpg", hash_of(content))
    with pytest.raises(InputError, match="leads out"):
        source.read("holiday/2024/01.jpg", hash_of(content))


@pytest.mark.parametrize("depth", [1_500, 2_500])
def test_any_depth_is_indexed_or_named(photos: Path, depth: int) -> None:
    """The second is deeper than the system's longest path."""
    handle = os.open(photos, os.O_RDONLY)
    try:
        for _ in range(depth):
            os.mkdir("d", dir_fd=handle)
            handle, above = os.open("d", os.O_RDONLY, dir_fd=handle), handle
            os.close(above)
        os.close(os.open("x.jpg", os.O_CREAT | os.O_WRONLY, dir_fd=handle))
        report = folder.index(opened(photos))
        assert report.computed == 24
        (named,) = report.failed
        assert set(named.split("/")) <= {"d", "x.jpg"}
        reason = "is empty" if depth == 1_500 else "name too long"
        assert reason in report.failed[named]
    finally:
        os.close(handle)
        subprocess.run(["rm", "-rf", photos / "d"], check=True)


def test_two_that_index_while_files_change_leave_a_listing_and_features_that_agree(
    photos: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    embed, others = folder._embed, []

    def overtaken(*arguments: Any) -> None:
        """Embed what was listed, while a file comes and somebody else begins to index."""
        if not others:
            put(pictures[24], photos / "new.jpg")
            others.append(index_process(photos))
            said = iter(others[0].stderr or [])
            assert any("Another process is writing" in line for line in said), "it does not wait"
        embed(*arguments)

    monkeypatch.setattr(folder, "_embed", overtaken)
    assert folder.index(opened(photos)).computed == 24
    out, err = others[0].communicate(timeout=300)
    assert json.loads(out)[0]["computed"] == 1, err
    assert len(features(photos)) == len(opened(photos).hashes()) == 25


def test_what_is_not_read_is_counted_by_ending(photos: Path) -> None:
    for number in range(3):
        (photos / f"{number}.SVG").write_text("<svg/>")
    (photos / "holiday" / "x.raw2").touch()
    (photos / "README").write_text("no image")
    shutil.copy(photos / "00.jpg", photos / "bare")
    (photos / "loop").symlink_to(photos / "holiday")
    (photos / "a.sentence instead of an ending").touch()
    (photos / os.fsdecode(b"x.\xff")).touch()
    report = folder.index(opened(photos))
    assert report.skipped == {
        ".svg": 3,
        ".raw2": 1,
        "without ending": 1,
        "links to folders": 1,
        "of other endings": 1,
        ".\N{REPLACEMENT CHARACTER}": 1,
    }
    assert "bare" in features(photos)
    assert json.loads(json.dumps(report.as_json()))["skipped"] == report.skipped
    assert counted({".heic": 1, ".svg": 2480}) == "2,480 .svg, 1 .heic"
    many = {f".{number:02}": 1 for number in range(20)}
    assert counted(many).endswith(", 1 .11, 8 of other endings")
    alone = photos.parent / "alone"
    alone.mkdir()
    (alone / "photo.xyz").touch()
    with pytest.raises(InputError, match=r"no image below .*\. Skipped: 1 \.xyz\. Known endings"):
        folder.index(opened(alone))


@pytest.mark.skipif(HEIF, reason="pillow-heif is installed")
def test_skipped_heic_comes_with_what_to_install(
    photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="seize")
    (photos / "IMG_1.HEIC").write_bytes(b"\0\0\0\x24ftypheic\0\0\0\0mif1heic")
    assert folder.index(opened(photos)).skipped == {".heic": 1}
    assert "skipped: 1 .heic" in caplog.text
    assert "pip install pillow-heif" in caplog.text
    for file in photos.rglob("*.jpg"):
        file.unlink()
    with pytest.raises(InputError, match=r"Skipped: 1 \.heic\. HEIC is read .* pip install"):
        folder.index(opened(photos))


def test_what_cannot_be_decoded_is_named_each_time_but_not_tried_again(
    photos: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listing, "SETTLED", 0)
    caplog.set_level("INFO", logger="seize")
    for name in ("broken.png", "copy.png", "large.bmp"):
        (photos / name).write_bytes(b"not an image")
    Image.new("RGB", (300, 300)).save(photos / "large.bmp")
    source = Folder(photos, config.load("demo", {"runtime.max_pixels": 80_000}), photos.parent)
    reasons = {
        "broken.png": "it is not an image that can be read.",
        "copy.png": "it is not an image that can be read.",
        "large.bmp": "it has 300 x 300 pixels, more than the 80,000 allowed (runtime.max_pixels).",
    }
    report = folder.index(source)
    assert (report.failed, report.known) == (reasons, [])
    with monkeypatch.context() as patched:
        patched.setattr(encoders, "load", None)  # no model is loaded
        caplog.clear()
        report = folder.index(source)
    assert report.failed == reasons
    assert sorted(report.known) == sorted(reasons)
    lines = [r for r in caplog.records if "skipped" in r.getMessage()]
    assert len(lines) == 3
    assert {r.levelname for r in lines} == {"INFO"}  # said before: --quiet does not repeat it
    assert all(r.getMessage().count(n) == 1 for r, n in zip(lines, sorted(reasons), strict=True))
    (photos / "copy.png").write_bytes((photos / "00.jpg").read_bytes())
    assert folder.index(source).failed.keys() == {"broken.png", "large.bmp"}
    taken = folder.index(replace(source, config=SETTINGS))
    assert (taken.computed, taken.failed.keys()) == (1, {"broken.png"})


def test_what_a_disk_failed_to_read_is_tried_again(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "SETTLED", 0)
    with monkeypatch.context() as patched:
        patched.setattr(Folder, "read", lambda self, path, _: read_image(self.root / "gone"))
        with pytest.raises(InputError, match="None of 24 images could be read"):
            folder.index(opened(photos))
    assert folder.index(opened(photos)).computed == 24


def test_huge_files_and_pipes_are_named_and_never_read(photos: Path) -> None:
    with (photos / "hole.png").open("wb") as stream:
        stream.truncate(3 << 30)
    os.mkfifo(photos / "pipe.png")
    report = folder.index(opened(photos))
    assert report.failed == {
        "hole.png": "it has 3,221,225,472 bytes, more than the 1,073,741,824 allowed.",
        "pipe.png": "it is no regular file",
    }


def test_unchanged_files_are_not_read(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "SETTLED", 0)  # the files were put there just now
    folder.index(opened(photos))

    def fail(*_: object) -> None:
        raise AssertionError("a file was read")

    monkeypatch.setattr("hashlib.file_digest", fail)
    assert folder.index(opened(photos)).cached == 24


def test_one_that_comes_or_goes_is_a_line_and_a_segment_and_the_rest_stays(
    photos: Path, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a snapshot of the listing, too."""
    monkeypatch.setattr(snapshots, "WORTH", 0)
    monkeypatch.setattr(listing, "SETTLED", 0)
    folder.index(opened(photos))
    source = opened(photos)
    lines = source.listing.file.read_bytes()
    large = source.feature_file.read_bytes()
    put(pictures[24], photos / "new.jpg")
    (photos / "02.jpg").unlink()
    assert folder.index(source).computed == 1
    assert source.listing.file.read_bytes().startswith(lines)
    assert len(source.listing.read()) == 26
    assert source.feature_file.read_bytes() == large
    assert len(list(folder_of(source.feature_file).glob("*.safetensors"))) == 1
    assert features(photos).keys() == source.hashes().keys()
    assert "02.jpg" not in source.hashes()
    assert "new.jpg" in source.hashes()
    gallery = Gallery(photos, SETTINGS, photos.parent / "cache")
    assert len(gallery) == 24
    put(pictures[2], photos / "02.jpg")
    assert folder.index(source).computed == 0, "its feature is still there"
    assert len(gallery) == 25
    shutil.rmtree(photos / "holiday")
    folder.index(source)
    assert not folder_of(source.feature_file).exists()
    assert len(FeatureFile(source.feature_file).names) == len(source.listing.read()) == 13


def test_random_histories_end_in_what_the_folder_holds(photos: Path, pictures: list[Path]) -> None:
    drawn = random.Random(0)
    for _ in range(6):
        for _ in range(drawn.randint(1, 6)):
            files = sorted(photos.rglob("*.jpg"))
            file = drawn.choice(files)
            other = photos / drawn.choice("ab") / f"{drawn.randrange(10)}.jpg"
            action = drawn.randrange(4)
            if action == 0:
                put(drawn.choice(pictures), other)
            elif action == 1 and len(files) > 1:
                file.unlink()
            elif action == 2:
                other.parent.mkdir(exist_ok=True)
                file.rename(other)
            else:
                put(drawn.choice(pictures), file)
                os.utime(file, (drawn.random() * 1e9, drawn.random() * 1e9))
        folder.index(opened(photos))
        held = {
            file.relative_to(photos).as_posix(): hash_of(file.read_bytes())
            for file in photos.rglob("*.jpg")
        }
        assert opened(photos).hashes() == held
        assert features(photos).keys() == held.keys()


def test_broken_images_links_and_strange_names_are_named_and_skipped(photos: Path) -> None:
    (photos / "broken.png").write_bytes(b"not an image")
    (photos / "empty.jpg").write_bytes(b"")
    secret = photos.parent / "secret.jpg"
    shutil.copy(photos / "00.jpg", secret)
    (photos / "out.jpg").symlink_to(secret)
    (photos / "in.jpg").symlink_to(photos / "02.jpg")
    (photos / "loop").symlink_to(photos)
    (photos / ".hidden").mkdir()
    shutil.copy(secret, photos / ".hidden" / "x.jpg")
    shutil.copy(secret, photos / os.fsdecode(b"\xff.jpg"))
    (photos / "notes.txt").write_text("no image")
    os.mkfifo(photos / "pipe.jpg")
    report = folder.index(opened(photos))
    assert report.computed == 24
    assert report.failed.keys() == {
        "broken.png",
        "empty.jpg",
        "out.jpg",
        "pipe.jpg",
        "\N{REPLACEMENT CHARACTER}.jpg",
    }
    assert "not an image" in report.failed["broken.png"]
    assert "outside" in report.failed["out.jpg"]
    assert features(photos).keys() >= {"in.jpg", "02.jpg"}
    assert not features(photos).keys() & {"out.jpg", ".hidden/x.jpg", "pipe.jpg", "broken.png"}


def test_what_cannot_be_indexed_or_searched_says_so(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        folder.open_folder(tmp_path / "nowhere", SETTINGS, tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="There is no image below"):
        folder.index(opened(tmp_path / "none"))
    (tmp_path / "none" / "x.png").write_bytes(b"")
    with pytest.raises(InputError, match="None of 1 images could be read"):
        folder.index(opened(tmp_path / "none"))
    gallery = Gallery(photos, SETTINGS, tmp_path / "cache")
    with pytest.raises(MissingStageError, match="Run: seize index"):
        gallery.query(photos / "00.jpg", CHANGE)
    gallery.index()
    with pytest.raises(InputError, match="nothing to search by"):
        gallery.query(None, "  ")
    with pytest.raises(InputError, match="does not exist"):
        gallery.query(tmp_path / "nothing.jpg", CHANGE)
    with pytest.raises(InputError, match="not an image"):
        gallery.query(b"no image", CHANGE)
    with pytest.raises(ConfigError, match="no method 'seise'"):
        gallery.with_search(method="seise")
    with pytest.raises(ConfigError, match="imported"):
        Gallery(photos, config.load("demo", {"llm.model": "imported:x"}), tmp_path)


def index_process(
    photos: Path, *more: str, program: Sequence[str] = SEIZE
) -> "subprocess.Popen[str]":
    command = [*program, "index", str(photos), "--config", "demo"]
    options = ["--cache", str(photos.parent / "cache"), "--workers", "0", "--json"]
    batch = ["--set", "runtime.embed_batch=4"]
    return subprocess.Popen(
        [*command, *options, *batch, *more],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def shards(photos: Path) -> list[Path]:
    return list((photos.parent / "cache").glob("folder-*/images/*.parts/*.safetensors"))


def test_kill_9_loses_at_most_the_batch_in_flight(photos: Path) -> None:
    process = index_process(photos, program=held_after("shard", 3))
    kill_once(lambda: len(shards(photos)) == 3, process)
    report = folder.index(opened(photos))
    assert (report.cached, report.computed) == (12, 12)
    assert len(features(photos)) == 24
    assert not shards(photos)


def test_two_processes_share_one_index(photos: Path) -> None:
    processes = [index_process(photos) for _ in range(2)]
    reports = []
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        reports += json.loads(out)
    assert sum(report["computed"] for report in reports) == 24
    assert len(features(photos)) == 24


def test_watch_follows_the_folder_until_ctrl_c(photos: Path, pictures: list[Path]) -> None:
    process = index_process(photos, "--watch")
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())[0]["computed"] == 24
    for line in process.stderr:
        if line.startswith("Watches"):
            break
    errors = threading.Thread(target=process.stderr.read)
    errors.start()
    shutil.copy(pictures[24], photos / "new.jpg")
    reports = iter(process.stdout.readline, "")
    assert any(json.loads(line)[0]["computed"] == 1 for line in reports)
    shutil.rmtree(photos / "holiday")
    for line in reports:
        assert json.loads(line)[0]["computed"] == 0
        if len(features(photos)) == 13:
            break
    process.send_signal(signal.SIGINT)
    assert process.wait(300) == 130
    errors.join()


def test_watch_waits_until_a_full_disk_has_room(
    photos: Path, pictures: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder.index(opened(photos))
    put(pictures[24], photos / "new.jpg")
    reports: list[StageReport] = []
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        assert not folder._try(opened(photos), reports.append)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "Cannot write" in caplog.text
    assert reports == []
    assert folder._try(opened(photos), reports.append)
    assert reports[0].computed == 1


def test_watch_tries_again_without_a_change(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[StageReport | None] = []
    index = folder.index

    class Ended(Exception):
        pass

    def sometimes(source: Folder) -> StageReport:
        if len(made) in (1, 2):
            made.append(None)
            raise StorageError("The disk is full.") if len(made) == 2 else OSError(errno.ENOSPC, "")
        report = index(source)
        if not made:  # a change that this index cannot have seen
            (photos / "00.jpg").unlink()
        return report

    def updated(report: StageReport) -> None:
        made.append(report)
        if len(made) > 1:
            raise Ended

    monkeypatch.setattr(folder, "AGAIN", 0.2)
    monkeypatch.setattr(folder, "index", sometimes)
    with pytest.raises(Ended):
        folder.watch(opened(photos), updated)
    assert [report is None for report in made] == [False, True, True, False]


@pytest.fixture(scope="module")
def gallery(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    """All pictures of the small world, one of them twice, indexed."""
    root = tmp_path_factory.mktemp("gallery")
    shutil.copytree(small_world / "CIRCO" / "COCO2017_unlabeled", root / "photos")
    made = Gallery(root / "photos", SETTINGS, root / "cache")
    first = sorted((root / "photos").rglob("*.jpg"))[0]
    shutil.copy(first, root / "photos" / "again.jpg")
    made.index()
    return made


@pytest.fixture
def reference(gallery: Gallery) -> Path:
    return sorted(gallery.folder.root.rglob("*.jpg"))[7]


@pytest.fixture
def no_models(gallery: Gallery, reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where any model is asked for anything but ``CHANGE``, which was asked before."""
    gallery.query(reference, CHANGE)

    def fail(*_: object) -> None:
        raise AssertionError("a model was called")

    for module in (pipeline.models.captioners, llms, encoders):
        monkeypatch.setattr(module, "load", fail)


def test_a_query_is_the_formula_over_captions_edits_and_gallery(
    gallery: Gallery, reference: Path
) -> None:
    result = gallery.query(reference, CHANGE)
    assert len(result.captions) == len(result.edited_captions) == 15
    assert any("dark" in (text or "") for text in result.edited_captions)
    model = encoders.load(SETTINGS.clip, SETTINGS.runtime)

    def mean(texts: tuple[str | None, ...]) -> NDArray[np.float64]:
        found = model.texts([t for t in texts if t is not None]).astype(np.float64)
        mean: NDArray[np.float64] = found.mean(axis=0)
        return mean / np.linalg.norm(mean)

    stored = gallery.folder.features()
    images = stored.all().astype(np.float64)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    after = images @ mean(result.edited_captions)
    gain = after - images @ mean(result.captions)
    score = after + 0.13 * np.maximum(gain, 0) + 2.1 * np.minimum(gain, 0)
    row = {name: i for i, name in enumerate(stored.names)}
    score[row[hash_of(reference.read_bytes())]] = -np.inf
    np.testing.assert_allclose(
        [image.score for image in result.images], np.sort(score)[::-1][:50], atol=1e-4
    )
    for image in result.images:
        place = row[image.hash]
        assert (gallery.folder.root / image.path).is_file()
        np.testing.assert_allclose(
            (image.score, image.similarity, image.increment),
            (score[place], after[place], gain[place]),
            atol=1e-4,
        )


def test_the_reference_is_excluded_wherever_its_file_is(
    gallery: Gallery, reference: Path, tmp_path: Path
) -> None:
    shutil.copy(reference, tmp_path / "elsewhere.jpg")
    everything = gallery.with_search(top_k=1000)
    inside = everything.query(reference, CHANGE)
    outside = everything.query(tmp_path / "elsewhere.jpg", CHANGE)
    assert inside == outside
    assert len(inside.images) == len(gallery) - 1
    assert hash_of(reference.read_bytes()) not in {image.hash for image in inside.images}
    kept = inside.rerank(keep_reference=True)
    assert len(kept.images) == len(gallery)
    (twice,) = (image for image in kept.images if image.copies)
    assert twice.path == "again.jpg"
    assert twice.copies[0].endswith(".jpg")


def test_asking_again_calls_no_model_in_another_process_too(
    gallery: Gallery, reference: Path, tmp_path: Path, no_models: None
) -> None:
    with pytest.raises(AssertionError, match="a model was called"):
        gallery.query(reference, "has a red square that nobody has asked for")
    again = Gallery(gallery.folder.root, SETTINGS, gallery.folder.cache)
    assert again.query(reference, CHANGE) == gallery.query(reference, CHANGE)


@pytest.mark.parametrize(
    "fault",
    [Fault(400), Fault(hang=True), Fault(body="<html>"), None],
    ids=["refused", "no answer in time", "no completion", "an answer that is none"],
)
def test_a_failed_edit_is_asked_again_by_the_next_query(
    gallery: Gallery, reference: Path, tmp_path: Path, fault: Fault | None
) -> None:
    sick = True
    server = Running(Stub(plan=lambda text, tries: fault if sick else None))
    server.stub.answer = lambda text: "" if sick and fault is None else f"a red thing {len(text)}"
    hangs = fault is not None and fault.hang
    served = {"llm.model": "echo", "llm.url": server.url, "captioner.samples": 3}
    runtime = {"runtime.retries": 0, "runtime.workers": 0}
    settings = config.load("demo", served | runtime)
    hurried = config.load("demo", served | runtime | {"runtime.timeout": 0.5})
    shutil.copytree(gallery.folder.cache, tmp_path / "cache")
    asked = Gallery(gallery.folder.root, hurried if hangs else settings, tmp_path / "cache")
    if hangs:
        with pytest.raises(ModelError, match=r"answered no request within 0\.5 s"):
            asked.query(reference, CHANGE)
        asked = Gallery(gallery.folder.root, settings, tmp_path / "cache")  # as told: more time
    else:
        first = asked.query(reference, CHANGE)
        assert set(first.edited_captions) == {None}
        assert any("No caption could be edited" in note for note in first.notes)
    sick = False
    again = asked.query(reference, CHANGE)
    assert None not in again.edited_captions
    seen = len(server.stub.seen)
    later = Gallery(gallery.folder.root, settings, tmp_path / "cache").query(reference, CHANGE)
    assert later.edited_captions == again.edited_captions
    assert len(server.stub.seen) == seen  # what was answered is kept
    server.stop()


@pytest.mark.parametrize("method", EVERY)
def test_other_methods_and_weights_rank_again_without_a_model(
    gallery: Gallery, reference: Path, method: str, no_models: None
) -> None:
    result = gallery.query(reference, CHANGE)
    if methods.increment_of(method) is None:
        with pytest.raises(ConfigError, match="has no increment"):
            result.rerank(method=method, alpha_pos=0.0)
        other = result.rerank(method=method, top_k=5)
        assert other.increment is None
    else:
        other = result.rerank(method=method, alpha_pos=0.0, alpha_neg=0.0, top_k=5)
        assert other.increment is not None
        assert (other.increment.positive, other.increment.negative) == (0, 0)
    assert other.settings.method == method
    assert len(other.images) == 5
    scores = [image.score for image in other.images]
    assert scores == sorted(scores, reverse=True)
    if method in ("seize", "seize-rank", "mean-ensemble"):
        np.testing.assert_allclose(scores, [image.similarity for image in other.images], rtol=1e-5)
    assert result.rerank(method=method) == result.rerank(method=method)


def test_a_text_edited_by_hand_calls_clip_alone_and_only_for_it(
    gallery: Gallery, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = gallery.query(reference, CHANGE)
    asked: list[str] = []
    model = encoders.load(SETTINGS.clip, SETTINGS.runtime)
    encode = model.texts

    def spy(texts: Sequence[str]) -> NDArray[np.float32]:
        asked.extend(texts)
        return encode(texts)

    monkeypatch.setattr(model, "texts", spy)
    edits = list(result.edited_captions)
    edits[4] = "three large red circles on a green background"
    edits[5] = None
    other = result.rerank(edited_captions=edits)
    assert asked == ["three large red circles on a green background"]
    assert other.images != result.images
    assert other.notes[0] == "1 of 15 edited captions are missing."
    assert other.rerank(edited_captions=result.edited_captions) == result
    for method in EVERY:  # with nothing to go by, the relative caption stands in
        bare = result.rerank(captions=[], edited_captions=[], method=method)
        assert len(bare.images) == 50
    with pytest.raises(InputError, match="do not match"):
        result.rerank(edited_captions=edits[:7])


def test_missing_edits_are_told_with_their_most_common_reason(
    gallery: Gallery, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Thinker:
        def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
            for request in requests:
                said = ("a dog", "<think>hm", "<think>so", "")[request.key % 4]
                yield Answer(request.key, said, truncated=request.key % 4 in (1, 2))

    monkeypatch.setattr(llms, "load", lambda *_: Thinker())
    result = gallery.query(reference, "was never asked before")
    missing = result.edited_captions.count(None)
    assert missing
    assert result.notes[:2] == (
        "Why edited captions are missing, most often: the answer was cut off while thinking.",
        f"{missing} of {len(result.edited_captions)} edited captions are missing.",
    )


def test_a_pillow_image_is_asked_about_by_its_pixels(
    gallery: Gallery, reference: Path, tmp_path: Path
) -> None:
    upright = Image.open(reference).convert("RGB")
    png = tmp_path / "reference.png"
    upright.save(png)
    expected = gallery.query(png, CHANGE)
    assert gallery.query(upright, CHANGE) == gallery.query(Image.open(png), CHANGE)
    assert gallery.query(upright, CHANGE).images == expected.images
    lying = upright.transpose(Image.Transpose.ROTATE_90)  # EXIF says how to turn it back
    exif = Image.Exif()
    exif[0x0112] = 6
    lying.save(tmp_path / "lying.png", exif=exif)
    assert gallery.query(Image.open(tmp_path / "lying.png"), CHANGE).images == expected.images


@pytest.mark.parametrize("text", [3, b"darker"])
def test_a_text_that_is_none_is_said(gallery: Gallery, reference: Path, text: Any) -> None:
    with pytest.raises(InputError, match=r"The relative caption is a \w+: give a text"):
        gallery.query(reference, text)


@pytest.mark.parametrize("image", [3, np.zeros((2, 2, 3), np.uint8)])
def test_an_image_that_is_none_is_said(gallery: Gallery, image: Any) -> None:
    with pytest.raises(InputError, match="give a path, bytes or a Pillow image"):
        gallery.query(image, CHANGE)


def test_galleries_and_results_are_shown_in_a_line(gallery: Gallery, reference: Path) -> None:
    result = gallery.query(reference, CHANGE)
    assert repr(gallery) == f"<Gallery '{gallery.folder.root}' by seize>"
    assert repr(result) == f"<Result {CHANGE!r}: 50 images, the best {result.paths[0]!r}>"


def test_what_the_demos_models_say_of_other_images_is_noted(
    gallery: Gallery, reference: Path, small_world: Path, tmp_path: Path
) -> None:
    note = "The models of the preset demo know the rendered shapes of its world alone"
    assert gallery.query(reference, CHANGE).rerank(top_k=2).notes[-1].startswith(note)
    asked = ("query", reference, CHANGE, "--gallery", gallery.folder.root, "--config", "demo")
    assert note in seize(*asked, "--cache", gallery.folder.cache).stderr
    assert folder.open_folder(small_world / "CIRCO", SETTINGS, tmp_path).notes == []
    laptop = folder.open_folder(tmp_path, config.load("laptop"), tmp_path)
    assert laptop.notes == []
    models = {f"{kind}.model": "x" for kind in ("captioner", "llm", "clip")}
    assert folder.open_folder(tmp_path, config.load("demo", models), tmp_path).notes == []


def test_other_threads_get_the_same(gallery: Gallery, reference: Path) -> None:
    found: list[object] = []

    def ask(number: int) -> None:
        fresh = gallery.with_search(alpha_neg=0.5)
        found.append(fresh.query(reference, f"has {('two', 'three')[number % 2]} circles").paths)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = [
        gallery.with_search(alpha_neg=0.5).query(reference, f"has {count} circles").paths
        for count in ("two", "three")
    ]
    assert sorted(map(str, found)) == sorted(map(str, expected * 4))


def test_an_index_updated_by_another_process_is_seen(
    photos: Path, pictures: list[Path], reference: Path
) -> None:
    gallery = Gallery(photos, SETTINGS, photos.parent / "cache")
    gallery.index()
    assert len(gallery) == 24
    put(pictures[26], photos / "new.jpg")
    out, err = index_process(photos).communicate(timeout=300)
    assert json.loads(out)[0]["computed"] == 1, err
    assert len(gallery) == 25
    assert "new.jpg" in [path for paths in gallery.paths.values() for path in paths]


def seize(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_commands(gallery: Gallery, reference: Path, tmp_path: Path) -> None:
    where = ("--cache", gallery.folder.cache, "--config", "demo")
    indexed = seize("index", gallery.folder.root, *where, "--workers", 0, "--json")
    assert indexed.exit_code == 0, indexed.stderr
    assert json.loads(indexed.stdout)[0]["computed"] == 0
    weights = ("--alpha-neg", 0.5)
    ask = ("query", reference, CHANGE, "--gallery", gallery.folder.root, *where, *weights)
    page = tmp_path / "page.html"
    asked = seize(*ask, "--top-k", 3, "--json", "--out", page)
    assert asked.exit_code == 0, asked.stderr
    content = json.loads(asked.stdout)
    expected = gallery.query(reference, CHANGE).rerank(alpha_neg=0.5, top_k=3)
    assert [image["path"] for image in content["images"]] == expected.paths
    assert content["page"] == str(page)
    shown = seize(*ask)
    assert len(expected.paths) == 3
    assert all(Path(path).name in shown.stdout for path in expected.paths)
    assert f"10 of {len(gallery)} images" in shown.stdout
    assert "edited caption" not in shown.stdout
    assert "edited caption" in seize(*ask, "--show-captions").stdout
    empty = seize("query", reference, CHANGE, "--gallery", tmp_path, *where)
    assert empty.exit_code == 3
    assert "There is no image below" in empty.stderr
    for command in ("index", "query"):
        assert f"Example: seize {command}" in seize(command, "--help").output


def test_the_written_page_is_one_file_with_all_text_escaped(
    gallery: Gallery, reference: Path, tmp_path: Path
) -> None:
    result = gallery.query(reference, CHANGE)
    nasty = '<script>alert("1")</script>'
    changed = result.rerank(edited_captions=[nasty, *result.edited_captions[1:]], top_k=4)
    write_page(changed, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert nasty not in text
    assert "&lt;script&gt;" in text
    assert text.count('src="data:image/') == 5  # four results and the reference
    assert text.count("src=") == 5
    assert "http:" not in text
    assert "https:" not in text


@pytest.mark.parametrize(
    "what", ["nothing", "feature", "listing", "metadata", "sidecar", "manifest", "segment", "shard"]
)
def test_all_is_looked_at_again_where_anything_of_a_settled_index_changed(
    photos: Path, pictures: list[Path], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "SETTLED", 0)
    folder.index(opened(photos))
    put(pictures[24], photos / "new.jpg")
    folder.index(opened(photos))
    source, before = opened(photos), features(photos)
    (segment,) = folder_of(source.feature_file).glob("*.safetensors")
    kept = source.listing.file.with_name("metadata.jsonl")
    files = {
        "feature": source.feature_file,
        "listing": source.listing.file,
        "metadata": kept,
        "manifest": manifest_of(source.feature_file),
        "segment": segment,
    }
    if what == "sidecar":
        (photos / "new.txt").write_text("a lake")
    elif what == "shard":
        shutil.copy(segment, segment.with_name("0000-000099.safetensors"))
    elif what != "nothing":
        content = bytearray(files[what].read_bytes())
        content[-20] ^= 1
        files[what].write_bytes(content)
    embed, looked = folder._embed, []
    monkeypatch.setattr(folder, "_embed", lambda *given: looked.append(embed(*given)))
    report = folder.index(opened(photos))
    # A damaged line of the listing is read from its file again, and is then what it was.
    assert bool(looked) == (what not in ("nothing", "listing"))
    assert report.cached + report.computed == len(before) == 25
    assert features(photos) == before
    found = metadata.by_path(kept)
    assert found.keys() == before.keys()
    assert found["new.jpg"]["text"] == ("a lake" if what == "sidecar" else "")
    looked.clear()
    again = folder.index(opened(photos))
    assert (again.cached, again.computed, looked) == (25, 0, [])

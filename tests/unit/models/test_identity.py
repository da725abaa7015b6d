"""A model is all its bytes, and a file keeps to the precision it was begun in."""

import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline import config
from pipeline.config import CaptionerConfig, ClipConfig, RuntimeConfig, devices
from pipeline.errors import ModelError
from pipeline.images.files import open_image
from pipeline.models import identity, verifiers
from pipeline.models.captioners._blip2 import Blip2
from pipeline.models.identity import COMPUTED, model_identity
from pipeline.run import Run
from pipeline.stages import caption, edit, embed, embeddings
from pipeline.store.features import FeatureFile
from pipeline.store.jsonl import read_header
from tests.conftest import PROJECT

OLD = 1_000_000_000


@pytest.fixture(autouse=True)
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's hashes are remembered; memory forgets those of others."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    identity._remembered.cache_clear()
    return tmp_path / "home" / "seize" / "models"


def model(folder: Path) -> Path:
    """A folder of 4 MiB of weights and the like, changed long ago."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(os.urandom(4 << 20))
    return folder


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if all files were changed long ago, so that their hashes are remembered."""
    monkeypatch.setattr(identity, "SETTLED", 0)


@pytest.mark.parametrize("place", [0, 2 << 20, (4 << 20) - 1000])
def test_any_thousand_bytes_that_change_make_another_model(tmp_path: Path, place: int) -> None:
    folder = model(tmp_path / "m")
    weights = folder / "model.safetensors"
    before, status = model_identity(str(folder)), weights.stat()
    with weights.open("r+b") as stream:
        stream.seek(place)
        stream.write(os.urandom(1000))
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))  # as `exiftool -P` and rsync do
    assert model_identity(str(folder)) != before


def test_names_count_and_what_is_for_people_does_not(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    before = model_identity(str(folder))
    (folder / "README.md").write_text("A model.")
    (folder / "LICENSE.txt").write_text("Yes.")
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref")
    assert model_identity(str(folder)) == before
    (folder / "merges.txt").write_text("a b")
    other = model_identity(str(folder))
    assert other != before
    (folder / "sub").mkdir()
    (folder / "merges.txt").rename(folder / "sub" / "merges.txt")
    assert model_identity(str(folder)) not in (before, other)


def test_a_copy_is_the_same_model_and_a_hub_name_is_itself(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    folder = model(tmp_path / "one" / "m")
    shutil.copytree(folder, tmp_path / "two" / "m")
    assert model_identity(str(folder)) == model_identity(str(tmp_path / "two" / "m"))
    assert model_identity(str(folder)).startswith("m@")
    assert model_identity("Salesforce/blip2-opt-2.7b") == "Salesforce/blip2-opt-2.7b"
    weights = folder / "model.safetensors"
    assert model_identity(str(weights)).startswith("model.safetensors@")


def test_a_file_is_read_once_and_again_after_a_change(
    tmp_path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model(tmp_path / "m")
    monkeypatch.setattr(identity, "SETTLED", 1 << 62)
    reads: list[str] = []
    real = identity._read
    monkeypatch.setattr(identity, "_read", lambda place: reads.append(place) or real(place))
    first = model_identity(str(folder))
    assert len(reads) == 2
    assert not notes.exists()  # changed just now: it may change again unseen
    monkeypatch.setattr(identity, "SETTLED", 0)  # as if it were long ago
    for count in (4, 4, 4):
        identity._remembered.cache_clear()  # as a new process
        assert model_identity(str(folder)) == first
        assert len(reads) == count
    (folder / "config.json").write_text("[]")
    os.utime(folder / "config.json", ns=(OLD, OLD))  # another time, however soon this came
    assert model_identity(str(folder)) != first
    assert len(reads) == 5


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("content", ["", "{", "[]", '{"file": "x"}', "null"])
def test_damaged_notes_are_read_over(tmp_path: Path, notes: Path, content: str) -> None:
    folder = model(tmp_path / "m")
    first = model_identity(str(folder))
    for note in notes.iterdir():
        note.write_text(content)
    identity._remembered.cache_clear()
    assert model_identity(str(folder)) == first


@pytest.mark.usefixtures("settled")
def test_no_byte_of_a_note_can_change_what_a_model_is(tmp_path: Path, notes: Path) -> None:
    weights = model(tmp_path / "m") / "model.safetensors"
    first = model_identity(str(weights))
    (note,) = notes.iterdir()
    whole = note.read_bytes()
    for place in range(0, len(whole), 3):
        note.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        identity._remembered.cache_clear()
        assert model_identity(str(weights)) == first
        assert note.read_bytes() == whole  # it was read again, and noted anew
    note.write_text(json.dumps({k: v for k, v in json.loads(whole).items() if k != "checksum"}))
    identity._remembered.cache_clear()
    assert model_identity(str(weights)) == first
    assert note.read_bytes() == whole


@pytest.mark.usefixtures("settled")
@pytest.mark.skipif(sys.platform == "darwin", reason="file names are UTF-8 there")
def test_a_file_of_any_name_is_remembered(tmp_path: Path, notes: Path) -> None:
    weights = model(tmp_path / os.fsdecode(b"m\xff")) / "model.safetensors"
    first = model_identity(str(weights))
    (note,) = notes.iterdir()
    written = note.stat().st_mtime_ns
    identity._remembered.cache_clear()
    assert model_identity(str(weights)) == first
    assert note.stat().st_mtime_ns == written


@pytest.mark.usefixtures("settled")
def test_without_a_place_for_notes_it_is_read_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model(tmp_path / "m")
    first = model_identity(str(folder))
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # no folder can be made below it
    identity._remembered.cache_clear()
    assert model_identity(str(folder)) == first


def test_processes_agree_on_one_note(tmp_path: Path, notes: Path) -> None:
    folder = model(tmp_path / "m")
    changed = (folder / "model.safetensors").stat().st_ctime_ns
    while time.time_ns() - changed <= identity.SETTLED:  # these processes cannot be told otherwise
        time.sleep(0.1)
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        found = set(pool.map(model_identity, [str(folder)] * 16))
    assert len(found) == 1
    assert len([note for note in notes.iterdir() if json.loads(note.read_text())]) == 2


def test_a_folder_of_everything_is_no_model(tmp_path: Path) -> None:
    folder = tmp_path / "all"
    folder.mkdir()
    for number in range(identity.MOST_FILES + 1):
        (folder / str(number)).touch()
    with pytest.raises(ModelError, match=f"{folder} holds more than 1,000 files"):
        model_identity(str(folder))
    (folder / "0").unlink()
    assert "@" in model_identity(str(folder))


def test_auto_is_what_the_file_was_begun_in() -> None:
    runtime = RuntimeConfig(device="cpu")
    auto = ClipConfig(model="ViT-B-32")
    settled, told = identity.settle(auto, runtime, {})
    assert (settled.precision, told) == ("float32", {COMPUTED: {"precision": "float32"}})
    settled, told = identity.settle(auto, runtime, {COMPUTED: {"precision": "float16"}})
    assert (settled.precision, told) == ("float16", {COMPUTED: {"precision": "float16"}})
    for odd in (None, "auto", "int4", 7, []):
        assert identity.settle(auto, runtime, {COMPUTED: {"precision": odd}})[0].precision == (
            "float32"
        )
    chosen = auto.model_copy(update={"precision": "bfloat16"})
    settled, _ = identity.settle(chosen, runtime, {COMPUTED: {"precision": "float16"}})
    assert settled.precision == "bfloat16"  # its file has another name


def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``auto`` come to what it does on a GPU, whose work this machine's processor then does."""
    monkeypatch.setattr(devices, "resolve_precision", lambda *_: "bfloat16")


def test_a_reader_without_the_makers_gpu_finds_and_finishes_its_files(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    few, more = run.references[:4], run.references[4:]
    with monkeypatch.context() as made:
        gpu(made)
        made.setattr(Run, "references", few)
        caption.caption(run)
        embed.embed_images(run)
    file = caption.record_file(run).file
    assert read_header(file)[COMPUTED] == {"precision": "bfloat16"}
    assert FeatureFile(embed.image_file(run)).header[COMPUTED] == {"precision": "bfloat16"}
    before = caption.by_image(caption.record_file(run))
    assert sorted(before) == sorted(few)
    # Here auto is float32: what is there is found, and what is missing is made as it was begun.
    report = caption.caption(run)
    assert (report.cached, report.computed) == (len(few), len(more))
    assert read_header(file)[COMPUTED] == {"precision": "bfloat16"}
    after = caption.by_image(caption.record_file(run))
    settings = run.config.captioner.model_copy(update={"precision": "bfloat16"})
    own = Blip2(settings, run.config.runtime)
    assert own.model.dtype == torch.bfloat16
    size = run.config.runtime.caption_batch
    pictures = [open_image(run.dataset.images[name]) for name in more[:size]]
    assert [after[name] for name in more[:size]] == own.caption(more[:size], pictures)
    assert embed.embed_images(run).computed == 0


def test_no_name_depends_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    served = {"captioner.model": "served:x", "llm.model": "y", "verifier.model": "z"}
    for fields in ({}, served):
        found = []
        for device in ("cpu", "cuda", "auto"):
            settings = config.load("demo", {**fields, "runtime.device": device})
            found.append(
                [
                    caption.settings(settings),
                    edit.settings(settings),
                    embeddings.identity(settings),
                    verifiers.header(settings.verifier),
                ]
            )
        assert found[0] == found[1] == found[2]
        if fields:
            assert "precision" not in found[0][0] | found[0][1] | found[0][3]


def test_a_served_captioner_has_no_precision() -> None:
    served = CaptionerConfig(model="served:x", precision="float16")
    plain = CaptionerConfig(model="served:x")
    settings = config.load("demo")
    one, other = (settings.model_copy(update={"captioner": each}) for each in (served, plain))
    assert caption.settings(one) == caption.settings(other)


def test_the_shipped_models_are_told_by_their_bytes() -> None:
    for name in ("clip", "captioner", "llm", "verifier"):
        assert model_identity(str(PROJECT / "data" / "models" / name)).startswith(f"{name}@")

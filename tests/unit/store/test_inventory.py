"""What a cache holds and what of it is current, and that nothing else is ever removed."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.store.features import write_features
from pipeline.store.inventory import Entry, entries, remove
from pipeline.store.jsonl import write_records


def output(cache: Path, path: str, days: float = 0, **header: Any) -> Path:
    """Write a real output of a stage, ``days`` before the others."""
    file = cache / path
    if file.suffix == ".jsonl":
        write_records(file, header, [{"text": "x"}])
    else:
        write_features(file, ["x"], np.ones((1, 4), np.float32), header)
    old = file.stat().st_mtime - days * 86_400
    os.utime(file, (old, old))
    return file


def reasons(cache: Path) -> dict[str, str]:
    root = cache.resolve()
    return {e.file.relative_to(root).as_posix(): e.reason for e in entries(cache) if e.reason}


def one(cache: Path, file: Path) -> Entry:
    (entry,) = (entry for entry in entries(cache) if entry.file == file.resolve())
    return entry


def test_an_entry_says_where_it_is_and_what_made_it(tmp_path: Path) -> None:
    header = {"method": "seize", "clip": {"model": "B@0123456789ab"}, "prompt": {"name": "short"}}
    file = output(tmp_path, "circo-val/search/seize-0123456789ab.jsonl", **header)
    texts = output(tmp_path, "texts/B-0123456789ab.safetensors", model="B", stage="embed texts")
    imported = output(tmp_path, "circo-val/caption/i-0123456789ab.jsonl", imported="theirs")
    (tmp_path / "README.md").write_text("a page")
    found = one(tmp_path, file)
    assert (found.folder, found.stage, found.bytes) == ("circo-val", "search", file.stat().st_size)
    assert found.made_by == "seize, B@0123456789ab, short"
    assert found.is_output
    assert (one(tmp_path, texts).folder, one(tmp_path, texts).stage) == ("", "texts")
    assert one(tmp_path, texts).made_by == "B"
    assert one(tmp_path, imported).made_by == "theirs"
    assert not one(tmp_path, tmp_path / "README.md").is_output


def test_an_output_is_one_with_its_shards_and_parts(tmp_path: Path) -> None:
    output(tmp_path, "c-val/images/B-0123456789ab.safetensors.parts/0000-000000.safetensors")
    output(tmp_path, "c-val/images/B-0123456789ab.safetensors.parts/0000-000001.safetensors")
    shard = tmp_path / "c-val/edit/llm-0123456789ab.jsonl.shard-1"
    write_records(shard, {"model": "llm"}, [])
    first, second = sorted(entries(tmp_path), key=lambda entry: entry.stage)
    assert (first.file.name, first.paths) == ("llm-0123456789ab.jsonl", [shard.resolve()])
    assert first.made_by == "llm"
    assert (second.file.name, len(second.paths)) == ("B-0123456789ab.safetensors", 2)
    assert remove(second, tmp_path)
    assert [entry.file for entry in entries(tmp_path)] == [first.file]
    assert not list((tmp_path / "c-val/images").glob("*.parts"))


def test_the_newer_of_two_alike_is_current(tmp_path: Path) -> None:
    old = output(tmp_path, "c-val/search/seize-00000000000a.jsonl", 2, method="seize", alpha=1)
    output(tmp_path, "c-val/search/seize-00000000000b.jsonl", 1, method="seize", alpha=2)
    renewed = "clip@00000000000c", "clip@00000000000d"  # the same name, other weights
    for number, model in enumerate(renewed):
        output(tmp_path, f"c/images/clip-00000000000{number}.safetensors", 9 - number, model=model)
    assert reasons(tmp_path) == {
        "c-val/search/seize-00000000000a.jsonl": "seize-00000000000b.jsonl is newer",
        "c/images/clip-000000000000.safetensors": "clip-000000000001.safetensors is newer",
    }
    assert remove(one(tmp_path, old), tmp_path)
    assert not old.exists()
    assert len(entries(tmp_path)) == 3


@pytest.mark.parametrize(
    "other",
    [
        {"method": "pdv"},
        {"clip": {"model": "L"}},
        {"prompt": {"name": "long"}},
        {"protocol": {"exclude_reference": False}},
        {"limited_to": 20},
    ],
)
def test_what_was_made_by_something_else_is_current_too(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    header = {"method": "seize", "clip": {"model": "B"}, "prompt": {"name": "short"}}
    output(tmp_path, "c-val/search/seize-00000000000a.jsonl", 2, **header)
    output(tmp_path, "c-val/search/seize-00000000000b.jsonl", 1, **header | other)
    assert reasons(tmp_path) == {}


def test_what_something_current_was_made_from_is_current(tmp_path: Path) -> None:
    output(tmp_path, "c-val/caption/b-00000000000a.jsonl", 9, model="b", seed=0)
    output(tmp_path, "c-val/caption/b-00000000000b.jsonl", 8, model="b", seed=1)
    output(tmp_path, "c-val/caption/b-00000000000c.jsonl", 7, model="b", seed=2)
    output(tmp_path, "c-val/edit/l-00000000000d.jsonl", 6, model="l", of=["00000000000a"])
    output(tmp_path, "c-val/edit/l-00000000000e.jsonl", 5, model="l")
    output(tmp_path, "c-val/search/s-00000000000f.jsonl", 4, edits="00000000000d")
    assert reasons(tmp_path).keys() == {"c-val/caption/b-00000000000b.jsonl"}


def test_what_no_stage_wrote_is_never_not_current(tmp_path: Path) -> None:
    folder = tmp_path / "c-val" / "search"
    folder.mkdir(parents=True)
    for name in ("seize-00000000000a.jsonl", "seize-00000000000b.jsonl", "notes-00000000000a.txt"):
        (folder / name).write_text("mine\n")
    assert reasons(tmp_path) == {}
    assert not any(entry.is_output for entry in entries(tmp_path))


def test_an_index_of_a_folder_that_is_gone_is_not_current(tmp_path: Path) -> None:
    cache, photos = tmp_path / "cache", tmp_path / "photos"
    photos.mkdir()
    place = "folder-photos-00000000000a"
    output(cache, f"{place}/files.jsonl", stage="index", folder=str(photos))
    features = output(cache, f"{place}/images/B-00000000000b.safetensors", model="B")
    output(cache, "folder-other-00000000000c/images/B-00000000000b.safetensors", model="B")
    assert reasons(cache) == {}
    photos.rmdir()
    assert reasons(cache) == {
        f"{place}/files.jsonl": f"{photos} is gone",
        f"{place}/images/B-00000000000b.safetensors": f"{photos} is gone",
    }
    assert remove(one(cache, features), cache)


@contextmanager
def elsewhere(code: str, file: Path) -> Iterator[None]:
    """Run ``code`` in another process, which holds what it holds until this ends."""
    code = f"import sys, pathlib\nfile = pathlib.Path(sys.argv[1])\n{code}"
    with subprocess.Popen(
        [sys.executable, "-c", code, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        try:
            yield
        finally:
            process.kill()


HOLD = "from pipeline.store.files import lock\nwith lock(file): print('held', flush=True); input()"


@pytest.mark.parametrize("held", ["", ".index", ".process-1"])
def test_what_another_process_holds_stays(tmp_path: Path, held: str) -> None:
    file = output(tmp_path, "c/images/B-00000000000a.safetensors", model="B")
    with elsewhere(HOLD, file.with_name(file.name + held)):
        assert not remove(one(tmp_path, file), tmp_path)
        assert file.exists()
    assert remove(one(tmp_path, file), tmp_path)
    assert not file.exists()


def test_half_written_files_go_once_their_process_is_gone(tmp_path: Path) -> None:
    code = (
        "from pipeline.store.files import atomic\n"
        "with atomic(file): print('held', flush=True); input()"
    )
    with elsewhere(code, tmp_path / "c-val" / "search" / "s-00000000000a.jsonl"):
        (entry,) = entries(tmp_path)
        assert not remove(entry, tmp_path)
    (entry,) = entries(tmp_path)
    assert entry.reason == "left by a process that was stopped"
    assert remove(entry, tmp_path)
    assert entries(tmp_path) == []


def test_links_lead_nowhere_outside(tmp_path: Path) -> None:
    cache, outside = tmp_path / "cache", tmp_path / "outside"
    kept = output(outside, "search/s-00000000000a.jsonl", 1, method="s")
    output(cache, "c-val/search/s-00000000000b.jsonl", method="s")
    (cache / "d-val").symlink_to(outside)
    (cache / "c-val" / "search" / "s-00000000000a.jsonl").symlink_to(kept)
    assert [entry.file.name for entry in entries(cache)] == ["s-00000000000b.jsonl"]
    (found,) = entries(outside)
    with pytest.raises(InputError, match="is not in the cache"):
        remove(found, cache)
    assert kept.exists()


def test_a_cache_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no cache"):
        entries(tmp_path / "nowhere")

"""Files are written whole or not at all, for whom the umask allows."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.store.features import write_features
from pipeline.store.files import atomic, write_json

HEADER = {"stage": "test", "seed": 0}


def test_atomic_leaves_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    file.write_text("old")

    def write_half() -> None:
        with atomic(file) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


HALF_WRITTEN = """
import os, sys, time
from pathlib import Path
from pipeline.store.files import atomic
with atomic(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_writer_left_is_removed_and_a_living_one_is_not_disturbed(
    tmp_path: Path,
) -> None:
    def start(name: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-c", HALF_WRITTEN, str(tmp_path / name)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        return process

    killed = start("a.json")
    killed.kill()
    killed.wait()
    alive = start("b.json")
    try:
        write_json(tmp_path / "c.json", {})
        found = sorted(file.name for file in tmp_path.iterdir())
        assert found[1:] == ["c.json"]
        assert found[0].startswith(".b.json.")
    finally:
        alive.kill()
        alive.wait()


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_gets_what_the_umask_leaves_and_an_old_one_keeps_its_mode(
    tmp_path: Path, umask: int
) -> None:
    private = tmp_path / "private.json"
    private.touch(0o600)
    before = os.umask(umask)
    try:
        write_json(tmp_path / "new.json", {})
        write_json(private, {})
        with atomic(tmp_path / "library.bin") as temporary:
            temporary.unlink()  # as a library that writes a file of its own
            temporary.touch(0o666)
        write_features(tmp_path / "f.safetensors", ["a"], np.zeros((1, 2), np.float32), HEADER)
    finally:
        os.umask(before)
    for name in ("new.json", "library.bin", "f.safetensors"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~umask
    assert private.stat().st_mode & 0o777 == 0o600

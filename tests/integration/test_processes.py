"""Stages shared by processes that accelerate launches; one of them is killed."""

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil

from pipeline.run import Run
from pipeline.stages import caption, embed
from pipeline.store.features import FeatureFile
from tests.conftest import PROJECT
from tests.holding import SEIZE, held_after, wait_until

MakeRun = Callable[..., Run]
LAUNCH = [
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    *("--num_machines", "1", "--main_process_port", "0", "--mixed_precision", "no"),
    *("--dynamo_backend", "no"),
]
"""Starts two processes of a program, on a machine without GPUs too; its Python is left out."""


def launch(
    run: Run, stage: str, options: Sequence[str], program: Sequence[str] = SEIZE
) -> "subprocess.Popen[str]":
    """Start a stage of ``run`` in two processes."""
    command = [
        *LAUNCH,
        *program[1:],
        stage,
        *run.command.split(),
        "--cache",
        str(run.cache),
        *options,
    ]
    return subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def kill_one(
    run: Run, stage: str, options: Sequence[str], write: str, count: int, ready: Callable[[], bool]
) -> None:
    """Have both processes stand still after some writes, and SIGKILL the second one."""
    launcher = launch(run, stage, options, held_after(write, count))
    wait_until(ready, launcher)
    if launcher.poll() is None:
        for process in psutil.Process(launcher.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # short-lived ones of the launcher
                if process.environ().get("RANK") == "1":
                    process.kill()
    said = launcher.communicate()[1]
    assert ready(), said
    assert launcher.returncode != 0, said


def finish(run: Run, stage: str, options: Sequence[str]) -> None:
    launcher = launch(run, stage, options)
    said = launcher.communicate()[1]
    assert launcher.returncode == 0, said


def lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def test_captions_of_two_processes_one_killed_equal_those_of_one(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run()
    alone = replace(run, cache=tmp_path / "alone")
    caption.caption(alone)
    file = caption.record_file(run).file
    shards = [file.with_name(f"{file.name}.shard-{index}") for index in range(2)]
    options = ("--set", "runtime.caption_batch=1")
    kill_one(
        # The first process begins the file, too.
        *(run, "caption", options, "line", 3),
        lambda: [lines(shard) for shard in shards] == [2, 3],
    )
    assert not file.exists() or lines(file) == 1
    kept = {record["image"] for record in caption.record_file(run).read()}
    assert len(kept) >= 2

    later = replace(run, cache=Path(shutil.copytree(run.cache, tmp_path / "later")))
    finish(run, "caption", options)
    report = caption.caption(later)  # one process takes up what several left
    assert report.cached == len(kept)
    assert report.computed == len(run.references) - len(kept)
    assert caption.read(run) == caption.read(later) == caption.read(alone)
    for each in (run, later):
        merged = caption.record_file(each).file
        assert lines(merged) == 1 + len(run.references)  # nothing was computed twice
        assert not list(merged.parent.glob(f"{merged.name}.shard-*"))


def test_features_of_two_processes_one_killed_equal_those_of_one(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run(runtime__shard=8, runtime__embed_batch=4)
    alone = replace(run, cache=tmp_path / "alone")
    expected = FeatureFile(Path(embed.embed(alone)[0].writes))
    options = (
        *("--set", "runtime.shard=8", "--set", "runtime.embed_batch=4"),
        *("--workers", "0"),
    )
    file = embed.image_file(run)
    parts = file.with_name(file.name + ".parts")

    def both_wrote() -> bool:
        return all(any(parts.glob(f"000{index}-*.safetensors")) for index in range(2))

    kill_one(run, "embed", options, "shard", 1, both_wrote)
    assert not file.exists()
    later = replace(run, cache=Path(shutil.copytree(run.cache, tmp_path / "later")))
    finish(run, "embed", options)
    report = embed.embed(later)[0]
    assert report.cached >= 16
    assert report.cached + report.computed + report.copies == len(run.dataset.images)
    for each in (run, later):
        features = FeatureFile(embed.image_file(each))
        assert features.names == expected.names
        np.testing.assert_allclose(features.all(), expected.all(), atol=1e-5)
    assert not parts.exists()


def test_only_the_main_process_speaks_and_counts_for_all(make_run: MakeRun) -> None:
    run = make_run()
    broken = run.references[1]  # the second process's
    images = Path(shutil.copytree(run.dataset.root, run.cache.parent / "CIRCO"))
    (images / run.dataset.images[broken].relative_to(run.dataset.root)).write_bytes(b"")
    launcher = launch(run, "caption", ("--data-root", str(images.parent), "--json"))
    out, said = launcher.communicate()
    assert launcher.returncode == 0, said
    (report,) = json.loads(out)
    assert report["computed"] == len(run.references) - 1
    assert list(report["failed"]) == [broken]
    assert said.count("is empty") == 1
    assert said.count("computed") == 1


def test_other_commands_are_refused_in_several_processes() -> None:
    launcher = subprocess.run(
        [*LAUNCH, *SEIZE[1:], "search", "--dataset", "circo"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    assert launcher.returncode != 0
    assert "`seize search` runs as one process" in launcher.stderr


def test_one_process_does_not_import_accelerate() -> None:
    code = (
        "import sys; sys.argv = ['seize', 'caption', '--help']\n"
        "from pipeline.cli import main\n"
        "try: main()\n"
        "finally: print('accelerate' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT)
    assert done.stdout.endswith("False False\n")

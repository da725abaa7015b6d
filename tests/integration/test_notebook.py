"""Every cell of the notebook in docs/ runs, and shows what it shows there."""

import json
from pathlib import Path

import pytest

from tests import notebook
from tests.conftest import PROJECT

LARGEST = 300_000
"""Bytes of the notebook with its pictures."""


def test_the_cells_run_and_show_what_the_notebook_shows(
    small_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "demo").symlink_to(small_world)
    monkeypatch.chdir(tmp_path)
    kept = notebook.load()
    made = list(notebook.outputs(kept))
    for cell, shown in zip(notebook.code(kept), made, strict=True):
        source = "".join(cell["source"])
        assert shown, source
        assert notebook.kinds(shown) == notebook.kinds(cell["outputs"]), source
    everything = json.dumps(made)
    assert everything.count("data:image/") > 10, "results show their pictures"


def test_the_notebook_is_whole_and_small() -> None:
    text = notebook.FILE.read_text(encoding="utf-8")
    kept = json.loads(text)
    assert (kept["nbformat"], kept["nbformat_minor"]) == (4, 5)
    names = [cell["id"] for cell in kept["cells"]]
    assert len(set(names)) == len(names)
    counts = [cell["execution_count"] for cell in notebook.code(kept)]
    assert counts == [*range(1, len(counts) + 1)]
    assert len(text) < LARGEST
    assert str(PROJECT) not in text
    assert " at 0x" not in text

"""The fuzzing campaign, small: hostile files for every reader, and those that broke one before."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import InputError
from tests.campaigns import fuzz
from tests.campaigns.fuzz import Reader


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> list[Reader]:
    return fuzz.readers(tmp_path_factory.mktemp("fuzz"))


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one input may take here, where other programs may keep the machine busy."""
    monkeypatch.setattr(fuzz, "SECONDS", 120)


@pytest.fixture
def timed() -> Iterator[None]:
    """An input that takes too long raises, as in the campaign."""
    before = signal.signal(signal.SIGALRM, fuzz._hang)
    yield
    signal.signal(signal.SIGALRM, before)


def test_good_files_are_taken(readers: list[Reader], timed: None) -> None:
    for reader in readers:
        for seed in reader.seeds:
            assert fuzz.judged(reader, seed) is None, reader.name
        reader.restore()


def test_what_broke_a_reader_once_is_refused_or_taken(readers: list[Reader], timed: None) -> None:
    found = list(fuzz.kept(readers))
    assert found
    defects = {file.name: fuzz.judged(reader, file.read_bytes()) for reader, file in found}
    for reader in readers:
        reader.restore()
    assert {name: defect for name, defect in defects.items() if defect} == {}


def test_hostile_files_end_in_a_result_or_the_projects_own_error(readers: list[Reader]) -> None:
    outcomes = [fuzz.apart(reader, 12, 7, None) for reader in readers]
    assert {o.reader: o.defects for o in outcomes if o.defects} == {}
    assert sum(outcome.refused for outcome in outcomes) > sum(o.inputs for o in outcomes) / 3
    assert sum(outcome.accepted for outcome in outcomes) > 0


def _raises(file: Path) -> None:
    raise KeyError("x")


def _refuses(file: Path) -> None:
    raise InputError("x")


def _dies(file: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hangs(file: Path) -> None:
    time.sleep(60)


def _eats(file: Path) -> None:
    bytearray(2 * fuzz.MEMORY)


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (_raises, "KeyError"),
        (_refuses, None),
        (_dies, "exit code -9"),
        (_hangs, "Hang"),
        (_eats, "MemoryError"),
    ],
)
def test_the_campaign_sees_every_kind_of_defect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Any, said: str | None
) -> None:
    if read is _hangs:
        monkeypatch.setattr(fuzz, "SECONDS", 0.2)
    reader = Reader("x y", tmp_path / "x", [b"abc"], fuzz.mutate.damaged, read)
    outcome = fuzz.apart(reader, 2, 0, tmp_path / "kept")
    assert (outcome.refused == 2) == (said is None)
    assert said in str(outcome.defects) if said else not outcome.defects
    assert (tmp_path / "kept").exists() == (said is not None)
    assert reader.file.read_bytes() == b"abc"

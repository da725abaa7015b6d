"""`seize rank` on feature files: what other people's scripts rely on."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.conftest import PROJECT

SHAPES = {"composed": (5, 16), "content": (5, 16), "gallery": (70, 16)}


def rank(*options: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pipeline", "rank", *map(str, options)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)


def expected_scores(
    features: dict[str, np.ndarray], positive: float, negative: float
) -> np.ndarray:
    unit = {
        name: rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1)[:, None]
        for name, rows in features.items()
    }
    after = unit["composed"] @ unit["gallery"].T
    change = after - unit["content"] @ unit["gallery"].T
    return after + positive * np.maximum(change, 0) + negative * np.minimum(change, 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("ending", ["npy", "safetensors"])
def test_rank_writes_the_formulas_top_k(tmp_path: Path, dtype: type, ending: str) -> None:
    rng = np.random.default_rng(0)
    features = {name: rng.normal(size=shape).astype(dtype) for name, shape in SHAPES.items()}
    options: list[object] = []
    for name, rows in features.items():
        file = tmp_path / f"{name}.{ending}"
        np.save(file, rows) if ending == "npy" else save_file({"any": rows}, file)
        options += [f"--{name}", file]
    excluded = np.array([3, -1, 5, 69, 0])
    np.save(tmp_path / "excluded.npy", excluded)
    out = tmp_path / "out.npz"
    options += ["--alpha-pos", 0.13, "--alpha-neg", 2.1, "--top-k", 20, "--out", out, "--json"]
    done = rank(*options, "--exclude", tmp_path / "excluded.npy")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 70
    result = np.load(out)
    assert result["indices"].dtype == np.int64
    assert result["scores"].dtype == np.float32
    assert result["indices"].shape == result["scores"].shape == (5, 20)
    scores = expected_scores(features, 0.13, 2.1)
    for query, row in enumerate(excluded):
        if row >= 0:
            scores[query, row] = -np.inf
    best = np.sort(scores, axis=1)[:, ::-1][:, :20]
    np.testing.assert_allclose(result["scores"], best, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(scores, result["indices"], 1), best, atol=1e-5)


def test_too_few_images_leave_minus_one_and_minus_infinity(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.eye(2, 3, dtype=np.float32))
    np.save(tmp_path / "x.npy", np.eye(3, dtype=np.float32))
    (tmp_path / "out.json").write_text("[[0, 1], null]")
    out = tmp_path / "out.npz"
    a, x = tmp_path / "a.npy", tmp_path / "x.npy"
    done = rank(
        *("--composed", a, "--content", a, "--gallery", x, "--alpha-pos", 0, "--alpha-neg", 0),
        *("--top-k", 4, "--exclude", tmp_path / "out.json", "--out", out),
    )
    assert done.returncode == 0, done.stderr
    result = np.load(out)
    assert result["indices"].tolist() == [[2, -1, -1, -1], [1, 0, 2, -1]]
    assert np.isneginf(result["scores"][0, 1:]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"content": np.ones((4, 16), np.float32)}, "content.npy has shape (4, 16)"),
        ({"gallery": np.ones((9, 8), np.float32)}, "gallery.npy has 8 dimensions"),
        ({"gallery": np.ones(9, np.float32)}, "must hold a matrix"),
        ({"gallery": np.full((9, 16), np.nan, np.float32)}, "row 0 is NaN or infinite"),
        ({"gallery": np.ones((9, 16), np.int64)}, "holds int64"),
    ],
)
def test_wrong_features_are_one_line_that_names_the_file(
    tmp_path: Path, change: dict[str, np.ndarray], message: str
) -> None:
    features = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()} | change
    options: list[object] = []
    for name, rows in features.items():
        np.save(tmp_path / f"{name}.npy", rows)
        options += [f"--{name}", tmp_path / f"{name}.npy"]
    out = tmp_path / "out.npz"
    done = rank(*options, "--alpha-pos", 0, "--alpha-neg", 0, "--out", out)
    assert done.returncode == 3
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not out.exists()

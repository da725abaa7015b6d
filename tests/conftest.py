"""A small rendered world, and runs on it with the models of the repository."""

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from pipeline import config, datasets
from pipeline.demo.build import Sizes, build
from pipeline.run import Run
from tests.browser import browser, page  # noqa: F401 - fixtures

os.environ.setdefault("HF_HUB_OFFLINE", "1")
DEPRECATIONS = ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning")
"""Warnings that are errors, here and in the processes that tests start: what a library will take
away is mended before a user sees it. None is let pass; one that libraries cause among themselves
may be, by its message and with the reason."""
# What pip, vLLM and installers of a browser warn of is theirs: tests start them without this.
os.environ.setdefault("PYTHONWARNINGS", ",".join(f"error::{name}" for name in DEPRECATIONS))
# What tests keep of their own folders of images is not the user's who runs them.
if "SEIZE_CACHE" not in os.environ:
    os.environ["SEIZE_CACHE"] = tempfile.mkdtemp(prefix="seize-tests-")
    atexit.register(shutil.rmtree, os.environ["SEIZE_CACHE"], ignore_errors=True)
# A shell's background job ignores SIGINT, and so would the processes that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Tests say nothing about speed: a busy machine is no failure. Nor do they draw lots: property tests
# try the same examples every time, and other ones with `--hypothesis-profile explore`.
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("seize", settings.get_profile("explore"), derandomize=True, database=None)
settings.load_profile("seize")
PROJECT = Path(__file__).resolve().parent.parent
SIZES = Sizes(
    circo_queries={"val": 12, "test": 6},
    circo_gallery=150,
    cirr_queries=6,
    cirr_groups=4,
    fashioniq_queries=4,
    fashioniq_gallery=60,
)


def pytest_configure(config: pytest.Config) -> None:
    """Turn deprecations into errors."""
    for name in DEPRECATIONS:
        config.addinivalue_line("filterwarnings", f"error::{name}")


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered world with a dozen queries a benchmark."""
    return build(tmp_path_factory.mktemp("data") / "demo", sizes=SIZES)


@pytest.fixture
def make_run(small_world: Path, tmp_path: Path) -> Callable[..., Run]:
    """A function that makes a run of the demo on the small world, with a cache of its own."""

    def make(
        dataset: str = "circo", split: str = "val", root: Path | None = None, **overrides: Any
    ) -> Run:
        torch.manual_seed(0)
        fields = {name.replace("__", "."): value for name, value in overrides.items()}
        settings = config.load("demo", {"runtime.workers": 0} | fields)
        data = root or small_world
        loaded = datasets.load(dataset, split, data)
        command = f"--config demo --dataset {dataset} --split {split} --data-root {data}"
        return Run(loaded, settings, tmp_path / "cache", tmp_path / "submissions", command)

    return make

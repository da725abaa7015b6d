"""Real vLLM servers on the CPU, of the demo's LLM and verifier. ``make test-vllm`` installs it.

These tests fail where vLLM cannot start; they are never skipped.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.models.serving import vllm
from tests.conftest import PROJECT

MODEL = str(PROJECT / "data" / "models" / "llm")
VERIFIER = str(PROJECT / "data" / "models" / "verifier")
ARGUMENTS = ["--enforce-eager", "--dtype", "float32", "--max-model-len", "256"]
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.pop("PYTHONWARNINGS", None)  # vLLM's own warnings are no errors of ours


def binary() -> str:
    """Return the vllm program to test with."""
    return str((PROJECT / os.environ.get("VLLM_BIN", ".venv-vllm/bin/vllm")).absolute())


def pytest_report_header() -> str:
    """Name the vLLM that is tested with."""
    done = subprocess.run([binary(), "--version"], capture_output=True, text=True, check=True)
    return f"vllm {done.stdout.strip().splitlines()[-1]} ({binary()})"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server that all tests share."""
    log: Path = tmp_path_factory.mktemp("vllm") / "vllm.log"
    with vllm.serve(MODEL, log, binary(), ARGUMENTS) as url:
        yield url


@pytest.fixture(scope="session")
def vision_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server of the verifier that all tests share."""
    log: Path = tmp_path_factory.mktemp("vllm-vision") / "vllm.log"
    # vLLM's own LLaVA takes the features of one layer; transformers' code, in vLLM, those of two.
    arguments = [*ARGUMENTS, "--model-impl", "transformers"]
    with vllm.serve(VERIFIER, log, binary(), arguments) as url:
        yield url

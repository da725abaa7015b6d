"""Starting, watching and stopping a server's processes. The server is a program of our own."""

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from pipeline.config import LlmConfig, RuntimeConfig
from pipeline.errors import ConfigError, ModelError
from pipeline.models.llms import Request
from pipeline.models.llms.served import ServedLlm
from pipeline.models.serving import vllm
from tests.conftest import PROJECT

PROGRAM = f'''#!{sys.executable}
import http.server, os, subprocess, sys, time
print("arguments", sys.argv[1:], flush=True)
if "--die" in sys.argv:
    print("\\x1b[31mValueError: no such model", flush=True)
    sys.exit(3)
if "--alone" in sys.argv:
    children = []
else:
    children = [subprocess.Popen([sys.executable, "-c", """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as stubborn as an engine in mid-step
time.sleep(600)
"""], start_new_session="--setsid" in sys.argv)]
open(os.environ["PIDS"], "w").write(f"{{os.getpid()}} {{' '.join(str(c.pid) for c in children)}}")
if "--slow" in sys.argv:
    time.sleep(600)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
'''


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that behaves as ``vllm serve`` does, with a child that ignores SIGTERM."""
    file = tmp_path / "vllm"
    file.write_text(PROGRAM)
    file.chmod(0o755)
    monkeypatch.setenv("PIDS", str(tmp_path / "pids"))
    monkeypatch.setattr(vllm, "GRACE", 0.5)
    return file


def family(tmp_path: Path) -> list[int]:
    return [int(pid) for pid in (tmp_path / "pids").read_text().split()]


def runs(pid: int) -> bool:
    """Whether a process is there; it may end at any moment, between two questions too."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(pids: list[int]) -> bool:
    """Wait until none of them is there; False where one still is when nobody would wait on."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if not any(runs(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def test_a_server_is_waited_for_and_all_of_it_is_stopped(program: Path, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "vllm.log"
    with vllm.serve("my/model", log, str(program), ["--max-model-len", "64"]) as url:
        assert url.startswith("http://127.0.0.1:")
        assert all(runs(pid) for pid in family(tmp_path))
    assert gone(family(tmp_path))
    said = log.read_text()
    assert "'serve', 'my/model'" in said
    assert "'--enable-prefix-caching', '--max-model-len', '64'" in said


def test_an_error_in_between_stops_it_too(program: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="mine"),
        vllm.serve("m", tmp_path / "log", str(program)),
    ):
        raise RuntimeError("mine")
    assert gone(family(tmp_path))


def test_a_server_that_dies_shows_the_end_of_its_log(program: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(ModelError, match=r"ended with code 3(.|\n)*ValueError: no such model") as e,
        vllm.serve("m", tmp_path / "log", str(program), ["--die"]),
    ):
        pass
    assert "\x1b" not in str(e.value)


def test_a_server_that_is_never_ready_is_stopped(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = tmp_path / "pids"

    def clock() -> float:
        """Let the time pass once the server and its child are there."""
        return 3.0 if pids.exists() and pids.read_text() else 0.0

    monkeypatch.setattr(vllm, "time", SimpleNamespace(monotonic=clock, sleep=time.sleep))
    with (
        pytest.raises(ModelError, match="not ready within 2 s"),
        vllm.serve("m", tmp_path / "log", str(program), ["--slow"], timeout=2),
    ):
        pass
    assert gone(family(tmp_path))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_nothing_survives_the_process_that_started_it(
    program: Path, tmp_path: Path, how: signal.Signals
) -> None:
    code = f"""
        import time
        from pathlib import Path
        from pipeline.models.serving import vllm
        vllm.GRACE = 0.5
        with vllm.serve("m", Path({str(tmp_path / "log")!r}), {str(program)!r}):
            print("ready", flush=True)
            time.sleep(600)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PIDS": str(tmp_path / "pids")},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    pids = family(tmp_path)
    process.send_signal(how)
    process.wait(300)
    assert gone(pids)


@pytest.mark.parametrize("dies", ["server", "keeper"])
@pytest.mark.parametrize("options", [[], ["--setsid"]], ids=["child", "child of its own session"])
def test_nothing_is_left_whichever_part_dies_first_and_the_stage_says_so(
    program: Path, tmp_path: Path, dies: str, options: list[str]
) -> None:
    asked = [Request(0, [{"role": "user", "content": "x"}], 9, (), 0.0, 7)]

    def stage(url: str) -> None:
        server, child = family(tmp_path)
        victim = server if dies == "server" else psutil.Process(server).ppid()
        os.kill(victim, signal.SIGKILL)
        if dies == "server":
            assert gone([server, child])  # at once: it holds the GPU
        list(ServedLlm(LlmConfig(model="m", url=url), RuntimeConfig(retries=1)).answer(asked))

    with (
        pytest.raises(ModelError, match=r"vLLM ended with code \S+ while it was in use"),
        vllm.serve("m", tmp_path / "log", str(program), options) as url,
    ):
        stage(url)
    assert gone(family(tmp_path))


def test_the_server_ends_with_a_keeper_that_is_killed_without_its_parent(
    program: Path, tmp_path: Path
) -> None:
    with vllm.start("m", tmp_path / "log", str(program)) as running:
        server, _ = family(tmp_path)
        running.keeper.kill()
        assert gone([server])


@pytest.mark.parametrize("how", ["server dies", "Ctrl-C"])
def test_serve_llm_ends_with_its_server(program: Path, tmp_path: Path, how: str) -> None:
    option = "--alone" if how == "Ctrl-C" else "--setsid"
    log = tmp_path / "log"
    command = ["serve-llm", "m", "--port", str(vllm.free_port()), "--log", str(log)]
    command += ["--vllm-bin", str(program)]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *command, f"--serve-arg={option}"],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    assert "is served" in process.stdout.readline()
    pids = family(tmp_path)
    if how == "Ctrl-C":
        process.send_signal(signal.SIGINT)
    else:
        os.kill(pids[0], signal.SIGKILL)
    _, said = process.communicate(timeout=300)
    assert gone(pids)
    assert process.returncode == (0 if how == "Ctrl-C" else 5)
    assert "Traceback" not in said
    if how != "Ctrl-C":
        assert "vLLM ended with code 137" in said


def test_no_proxy_of_the_environment_stands_between(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with vllm.serve("m", tmp_path / "log", str(program), timeout=300) as url:
        assert url


def test_keys_among_the_arguments_are_not_shown(
    program: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "seize")
    secret = ["--api-key", "sk-secret-1", "sk-secret-2", "--hf_token=hf-secret", "--dtype", "auto"]
    with (
        pytest.raises(ModelError, match="before it was ready") as error,
        vllm.serve("m", tmp_path / "log", str(program), [*secret, "--die"]),
    ):
        pass
    assert "secret" not in caplog.text
    assert "Starts" in caplog.text
    assert "secret" in (tmp_path / "log").read_text()  # it repeats its arguments
    assert "secret" not in str(error.value)


def test_no_vllm_is_an_error_that_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"no vllm on PATH.*--vllm-bin"):
        vllm.find()
    with pytest.raises(ConfigError, match="no vllm at /nowhere/vllm"):
        vllm.find("/nowhere/vllm")

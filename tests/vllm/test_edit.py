"""The edit stage against a real vLLM server: agreement, faults, kills on either side."""

import os
import re
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from pipeline.config import LlmConfig, RuntimeConfig
from pipeline.models.llms import Request
from pipeline.models.llms.served import ServedLlm
from pipeline.models.serving.vllm import serve
from pipeline.run import Run
from pipeline.stages import caption, edit
from pipeline.stages.everything import run_stages
from tests.conftest import PROJECT
from tests.holding import SEIZE, held_after, kill_once, wait_until
from tests.vllm.conftest import ARGUMENTS, MODEL, binary

MakeRun = Callable[..., Run]


def test_served_edits_are_those_of_the_same_model_in_process(
    make_run: MakeRun, server: str
) -> None:
    run = make_run()
    caption.caption(run)
    served = run.with_llm(MODEL, server)
    report = edit.edit(served)
    assert report.computed == len(edit.pairs(run, caption.read(run)))
    assert not report.failed
    edit.edit(run)
    here, there = edit.read(run), edit.read(served)
    texts = [(a, b) for query in here for a, b in zip(here[query], there[query], strict=True)]
    agreement = sum(a == b for a, b in texts) / len(texts)
    print(f"agreement of {len(texts)} edits: {100 * agreement:.1f} %")
    assert agreement > 0.95
    reports, metrics = run_stages(served)
    assert reports[1].computed == 0
    assert metrics


def test_the_report_tells_what_the_prefix_cache_held(make_run: MakeRun, server: str) -> None:
    asked = [
        Request(i, [{"role": "user", "content": "red circle " * 80}], 1, (), 0.0, 0)
        for i in range(20)
    ]
    llm = ServedLlm(LlmConfig(model=MODEL, url=server), RuntimeConfig(concurrency=1))
    assert sum(answer.text is not None for answer in llm.answer(asked)) == 20
    (note,) = llm.notes
    found = re.search(
        r"had ([\d.]+)% of the prompts' tokens in its prefix cache \(([\d,]+) of", note
    )
    assert found, note
    print(note)
    # The same prompt 20 times: all but the last, incomplete block of it, and all of the first time.
    assert int(found[2].replace(",", "")) > 0
    run = make_run().with_llm(MODEL, server)
    caption.caption(run)
    assert "in its prefix cache" in " ".join(edit.edit(run).notes)


def test_a_too_long_prompt_is_that_records_failure_with_the_lengths(server: str) -> None:
    llm = ServedLlm(LlmConfig(model=MODEL, url=server), RuntimeConfig())
    long, short = "red circle " * 400, "a red circle"
    requests = [
        Request(i, [{"role": "user", "content": text}], 16, (), 0.0, 0)
        for i, text in enumerate((long, short))
    ]
    answers = {answer.key: answer for answer in llm.answer(requests)}
    assert "256" in (answers[0].reason or "")
    assert "HTTP 400" in (answers[0].reason or "")
    assert answers[1].text


def process(run: Run, *options: str, program: Sequence[str] = SEIZE) -> "subprocess.Popen[str]":
    command = [*program, "edit", *run.command.split()]
    folders = ["--cache", str(run.cache), "--submissions", str(run.submissions)]
    return subprocess.Popen(
        [*command, *folders, "--concurrency", "2", *options],
        cwd=PROJECT,
        stderr=subprocess.PIPE,
        text=True,
    )


def held_at(
    count: int, run: Run, *options: str
) -> tuple["subprocess.Popen[str]", Callable[[], bool]]:
    """Start editing, to stand still after so many lines; return also whether it has come there."""
    file = edit.record_file(run).file
    client = process(run, *options, program=held_after("line", count))
    return client, lambda: file.exists() and file.read_bytes().count(b"\n") == count


def test_kill_9_of_the_client_loses_nothing(make_run: MakeRun, server: str) -> None:
    run = make_run().with_llm(MODEL, server)
    caption.caption(run)
    file = edit.record_file(run).file
    client, ready = held_at(12, run, "--llm", MODEL, "--llm-url", server)
    kill_once(ready, client)
    kept = file.read_bytes().rpartition(b"\n")[0]
    report = edit.edit(run)
    assert report.cached == 11
    assert report.cached + report.computed == len(edit.pairs(run, caption.read(run)))
    assert file.read_bytes().startswith(kept)


def test_kill_9_of_the_server_loses_nothing_and_another_finishes(
    make_run: MakeRun, server: str, tmp_path: Path
) -> None:
    run = make_run().with_llm(MODEL, server)
    caption.caption(run)
    file = edit.record_file(run).file
    with serve(MODEL, tmp_path / "vllm.log", binary(), ARGUMENTS) as url:
        port = url.removesuffix("/v1").rpartition(":")[2]
        (keeper,) = [c for c in psutil.Process().children() if port in c.cmdline()]
        (engine,) = keeper.children()
        options = ("--llm", MODEL, "--llm-url", url, "--set", "runtime.retries=2")
        client, ready = held_at(12, run, *options)
        wait_until(ready, client)
        for part in [engine, *engine.children(recursive=True)]:
            part.send_signal(signal.SIGKILL)
        client.send_signal(signal.SIGUSR1)
        said = client.communicate(timeout=120)[1]
    assert client.returncode == 5
    assert "What was answered is kept" in said.splitlines()[-1]
    kept = file.read_bytes()
    assert b"reason" not in kept  # the server's end is no record's fault
    report = edit.edit(run)  # with the server that still runs
    assert report.cached >= 11
    assert not report.failed
    assert file.read_bytes().startswith(kept)


def test_edit_serves_the_model_itself_and_ctrl_c_stops_all_of_it(make_run: MakeRun) -> None:
    run = make_run().with_llm(MODEL, "")
    caption.caption(run)
    arguments = [f"--serve-arg={' '.join(ARGUMENTS)}", "--vllm-bin", binary()]
    client, ready = held_at(5, run, "--serve", MODEL, *arguments)
    wait_until(ready, client)
    started = psutil.Process(client.pid).children(recursive=True)
    assert len(started) >= 2
    os.kill(client.pid, signal.SIGINT)
    assert client.wait(120) == 130
    _, alive = psutil.wait_procs(started, timeout=60)
    assert not alive
    client = process(run, "--serve", MODEL, *arguments)
    said = client.communicate(timeout=600)[1]
    assert client.returncode == 0, said
    assert "vLLM is ready after" in said
    assert all(text for texts in edit.read(run).values() for text in texts)


@pytest.mark.parametrize("bad", ["--no-such-option", "--max-model-len 0"])
def test_a_server_that_cannot_start_shows_why(make_run: MakeRun, bad: str) -> None:
    run = make_run()
    caption.caption(run)
    client = process(run, "--serve", MODEL, f"--serve-arg={bad}", "--vllm-bin", binary())
    said = client.communicate(timeout=300)[1]
    assert client.returncode == 5
    assert "before it was ready. The end of" in said

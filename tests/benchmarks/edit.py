"""How fast the edit stage asks: ``make bench-edit``, as ratios measured in one run.

Client: CPU time a request against a stub that answers at once. Against a real vLLM server (tests'
fixture) with the demo's LLM: requests a second by this client, by it one at a time, and by
``vllm bench serve`` with the same prompts and concurrency, all with a warm prefix cache.
"""

import json
import platform
import random
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import psutil

from pipeline.config import RuntimeConfig
from pipeline.demo import world
from pipeline.demo.evaluate import held_out_scenes
from pipeline.models.prompts import edit as prompts
from pipeline.models.serving import vllm
from pipeline.models.serving.chat import ChatClient
from tests.conftest import PROJECT
from tests.vllm.conftest import MODEL, binary

Body = dict[str, Any]


def bodies(count: int, name: str = "demo") -> list[Body]:
    """Return request bodies of distinct edits of the demo, in the prompt of that name."""
    rng, prompt = random.Random(0), prompts.load(name)
    made = []
    for scene in held_out_scenes(count, seed=4):
        messages = prompt.messages(
            world.mention(scene, rng).text(), world.random_edit(scene, rng).text
        )
        made.append({"messages": messages, "max_tokens": prompt.max_tokens, "temperature": 0.0})
    return made


def ask(url: str, model: str, asked: list[Body], concurrency: int) -> tuple[float, float]:
    """Return wall and CPU seconds of asking all ``asked``."""
    client = ChatClient(url, model, RuntimeConfig(concurrency=concurrency))
    wall, cpu = time.perf_counter(), time.process_time()
    answers = list(client.complete(enumerate(asked)))
    assert all(answer.texts for answer in answers)
    assert len(answers) == len(asked)
    return time.perf_counter() - wall, time.process_time() - cpu


def client_cost(count: int) -> tuple[float, float]:
    """Return milliseconds of CPU a request against a stub in another process, and how many MiB
    the client's memory grew between the first tenth of the requests and the last."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    stub = subprocess.Popen([sys.executable, "-m", "tests.stub", str(port)], cwd=PROJECT)
    try:
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)
        some, here = bodies(200), psutil.Process()
        client = ChatClient(f"http://127.0.0.1:{port}/v1", "echo", RuntimeConfig(concurrency=64))
        requests = ((i, some[i % len(some)]) for i in range(count))
        start, early = time.process_time(), 0
        for number, answer in enumerate(client.complete(requests)):
            assert answer.texts
            if number == count // 10:
                early = here.memory_info().rss
        cpu, late = time.process_time() - start, here.memory_info().rss
    finally:
        stub.kill()
        stub.wait()
    return 1000 * cpu / count, (late - early) / 2**20


def bench_serve(url: str, model: str, asked: list[Body], concurrency: int, folder: Path) -> float:
    """Return requests a second by ``vllm bench serve``."""
    data = folder / "prompts.jsonl"
    lines = [json.dumps({"prompt": body["messages"][0]["content"]}) for body in asked]
    data.write_text("\n".join(lines) + "\n")
    command = [
        binary(), "bench", "serve", "--backend", "openai-chat", "--base-url",
        url.removesuffix("/v1"), "--endpoint", "/v1/chat/completions", "--model", model,
        "--dataset-name", "custom", "--dataset-path", str(data), "--custom-output-len",
        str(asked[0]["max_tokens"]), "--skip-chat-template", "--disable-shuffle",
        "--num-prompts", str(len(asked)), "--max-concurrency", str(concurrency),
        "--temperature", "0", "--save-result", "--result-filename", str(folder / "result.json"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"vllm bench serve failed:\n{done.stderr[-3000:]}")
    return float(json.loads((folder / "result.json").read_text())["request_throughput"])


@click.command()
@click.option("--requests", "count", default=1000, show_default=True)
@click.option("--stub-requests", default=5000, show_default=True)
@click.option("--concurrency", default=64, show_default=True)
@click.option("--rounds", default=2, show_default=True, help="the best of so many is reported")
@click.option("--model", default=MODEL, help="chat model that vLLM serves; the demo's by default")
@click.option("--prompt", default="demo", show_default=True, help="prompt of the requests")
@click.option("--length", default=256, show_default=True, help="tokens of the longest sequence")
def main(
    count: int,
    stub_requests: int,
    concurrency: int,
    rounds: int,
    model: str,
    prompt: str,
    length: int,
) -> None:
    """Print a Markdown table."""
    cost, growth = client_cost(stub_requests)
    asked = bodies(count, prompt)
    for body in asked:  # as one user turn, the same for both clients
        text = "\n".join(turn["content"] for turn in body["messages"])
        body["messages"] = [{"role": "user", "content": text}]
    arguments = ["--enforce-eager", "--dtype", "float32", "--max-model-len", str(length)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with vllm.serve(model, folder / "vllm.log", binary(), arguments) as url:
            ask(url, model, asked, concurrency)
            own, theirs = [], []
            for _ in range(rounds):
                own.append(count / ask(url, model, asked, concurrency)[0])
                theirs.append(bench_serve(url, model, asked, concurrency, folder))
            few = asked[: min(count // 10, 20)]
            single = len(few) / ask(url, model, few, 1)[0]
    print(f"{platform.machine()}, {count} requests, {concurrency} in flight, best of {rounds}\n")
    print("| measure | value |\n| --- | --- |")
    print(f"| client CPU a request, {stub_requests:,} to a stub | {cost:.2f} ms |")
    print(f"| growth of the client's memory meanwhile | {growth:.1f} MiB |")
    print(f"| seize, requests a second | {max(own):.1f} |")
    print(f"| vllm bench serve, requests a second | {max(theirs):.1f} |")
    print(f"| seize / vllm bench serve | {max(own) / max(theirs):.2f} |")
    print(f"| one at a time, requests a second | {single:.1f} |")
    print(f"| seize / one at a time | {max(own) / single:.1f} |")


if __name__ == "__main__":
    main()

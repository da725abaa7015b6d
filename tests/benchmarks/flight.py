"""How many requests in flight a server takes: the number found by asking, against fixed ones.

``python -m tests.benchmarks.flight --url http://127.0.0.1:8080/v1 --model NAME`` measures a server
that runs (llama.cpp's, say); without a URL, a vLLM (tests' fixture) with the demo's LLM is started.
Requests are the demo's edits; a server's prefix cache is warm for all of them.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import click

from pipeline.config import RuntimeConfig
from pipeline.models.serving import vllm
from pipeline.models.serving.chat import ChatClient
from tests.benchmarks import report
from tests.benchmarks.edit import Body, bodies
from tests.vllm.conftest import ARGUMENTS, MODEL, binary


class Unaware(ChatClient):
    """A client that a server tells nothing about how much it can take."""

    def _set_pace(self, metrics: str, body: dict[str, Any]) -> None:
        pass


def rate(client: ChatClient, asked: list[Body]) -> float:
    """Return answers a second."""
    begun = time.perf_counter()
    answers = list(client.complete(enumerate(asked)))
    assert all(answer.texts for answer in answers), answers[0].reason
    return len(asked) / (time.perf_counter() - begun)


def measured(url: str, model: str, asked: list[Body], numbers: list[int], rounds: int) -> str:
    """Return a table of answers a second, the best of some rounds, and what was found by asking."""
    ways: dict[str, list[float]] = {}
    runtime = RuntimeConfig(timeout=600)
    rate(ChatClient(url, model, runtime), asked[: max(len(asked) // 10, 2)])
    found = []
    for _ in range(rounds):
        for number in numbers:
            fixed = ChatClient(url, model, runtime.model_copy(update={"concurrency": number}))
            ways.setdefault(f"{number} in flight", []).append(rate(fixed, asked))
        chosen, asking = ChatClient(url, model, runtime), Unaware(url, model, runtime)
        ways.setdefault("as seize chooses", []).append(rate(chosen, asked))
        ways.setdefault("found by asking alone", []).append(rate(asking, asked))
        found += [chosen.pace.number, asking.pace.number]
    best = max(max(values) for name, values in ways.items() if name.endswith("in flight"))
    ends = {"as seize chooses": found[-2], "found by asking alone": found[-1]}
    rows = [
        [
            name + (f" (in the end {ends[name]})" if name in ends else ""),
            f"{max(values):.2f}",
            f"{max(values) / best:.2f}",
        ]
        for name, values in ways.items()
    ]
    columns = ["requests", "answers a second", "of the best fixed number"]
    return report.table("Requests in flight", columns, rows)


@click.command()
@click.option("--url", help="a server that runs; a vLLM with the demo's LLM is started else")
@click.option("--model", default=MODEL, help="its name there")
@click.option("--prompt", default="demo", show_default=True, help="prompt of the requests")
@click.option("--requests", "count", default=2000, show_default=True)
@click.option("--tokens", default=32, show_default=True, help="most tokens of an answer")
@click.option("--numbers", default="1,8,64,256", show_default=True, help="fixed numbers in flight")
@click.option("--rounds", default=1, show_default=True, help="the best of so many is reported")
def main(
    url: str | None,
    model: str,
    prompt: str,
    count: int,
    tokens: int,
    numbers: str,
    rounds: int,
) -> None:
    """Print a Markdown table."""
    asked = [body | {"max_tokens": tokens} for body in bodies(count, prompt)]
    fixed = [int(number) for number in numbers.split(",")]
    if url:
        print(measured(url, model, asked, fixed, rounds))
        return
    with (
        tempfile.TemporaryDirectory() as name,
        vllm.serve(model, Path(name) / "vllm.log", binary(), ARGUMENTS) as started,
    ):
        print(measured(started, model, asked, fixed, rounds))


if __name__ == "__main__":
    main()

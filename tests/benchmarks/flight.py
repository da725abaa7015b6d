"""How many requests in flight a server takes: the number found by asking, against fixed ones.

``python -m tests.benchmarks.flight --url http://127.0.0.1:8080/v1 --model NAME`` measures a server
that runs (llama.cpp's, say); ``make bench ARGS=flight`` starts a vLLM with the demo's LLM. Requests
are the demo's edits; a server's prefix cache is warm for all of them. Each round has the ways in
another order, and ratios are of the same round: their median is reported.
"""

import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from pipeline.config import RuntimeConfig
from pipeline.models.serving import vllm
from pipeline.models.serving.chat import ChatClient
from tests.benchmarks import report
from tests.benchmarks.edit import Body, bodies
from tests.vllm.conftest import ARGUMENTS, MODEL, binary

CHOSEN, ASKED = "as seize chooses", "found by asking alone"
TITLE = "Requests in flight"


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
    """Return a table of answers a second, and how many those are of the best fixed number's."""
    runtime = RuntimeConfig(timeout=600)
    rate(ChatClient(url, model, runtime), asked)
    rates: dict[str, list[float]] = {f"{number} in flight": [] for number in numbers}
    rates |= {CHOSEN: [], ASKED: []}
    ends: dict[str, int] = {}
    order = random.Random(0)
    for _ in range(rounds):
        for way in order.sample(list(rates), len(rates)):
            if way in (CHOSEN, ASKED):
                client = (ChatClient if way == CHOSEN else Unaware)(url, model, runtime)
            else:
                fixed = {"concurrency": int(way.split()[0])}
                client = ChatClient(url, model, runtime.model_copy(update=fixed))
            rates[way].append(rate(client, asked))
            ends[way] = client.pace.number
    middle = {way: statistics.median(values) for way, values in rates.items()}
    best = max((f"{number} in flight" for number in numbers), key=lambda way: middle[way])
    rows = []
    for way, values in rates.items():
        ratios = sorted(value / of for value, of in zip(values, rates[best], strict=True))
        ended = f" (in the end {ends[way]})" if way in (CHOSEN, ASKED) else ""
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        rows.append([way + ended, f"{middle[way]:.2f}", f"{statistics.median(ratios):.2f}", spread])
    columns = ["requests", "answers a second", "of the best fixed number", "over the rounds"]
    return report.table(f"{TITLE}: {len(asked):,}, {rounds} rounds", columns, rows)


def edits(count: int, prompt: str, tokens: int) -> list[Body]:
    """Return the demo's edits, of so many tokens at most."""
    return [body | {"max_tokens": tokens} for body in bodies(count, prompt)]


def tables(size: report.Size) -> Iterator[str]:
    """Yield the table for a vLLM with the demo's LLM, or the reason that there is none."""
    if shutil.which(binary()) is None:
        yield f"{TITLE}: not measured, since there is no vLLM (`make test-vllm` installs one).\n"
        return
    counts = (600, [64, 256], 1) if size == "small" else (2372, [8, 64, 256], 3)
    count, numbers, rounds = counts
    with (
        tempfile.TemporaryDirectory() as name,
        vllm.serve(MODEL, Path(name) / "vllm.log", binary(), ARGUMENTS) as url,
    ):
        yield measured(url, MODEL, edits(count, "demo", 32), numbers, rounds)


@click.command()
@click.option("--url", required=True, help="a server that runs")
@click.option("--model", default=MODEL, help="its name there")
@click.option("--prompt", default="demo", show_default=True, help="prompt of the requests")
@click.option("--requests", "count", default=2372, show_default=True)
@click.option("--tokens", default=32, show_default=True, help="most tokens of an answer")
@click.option("--numbers", default="64,256", show_default=True, help="fixed numbers in flight")
@click.option("--rounds", default=3, show_default=True)
def main(
    url: str, model: str, prompt: str, count: int, tokens: int, numbers: str, rounds: int
) -> None:
    """Print a Markdown table for a server that runs."""
    fixed = [int(number) for number in numbers.split(",")]
    print(measured(url, model, edits(count, prompt, tokens), fixed, rounds))


if __name__ == "__main__":
    main()

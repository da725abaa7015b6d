"""What a vLLM's prefix cache holds of the prompts of edits, by prompt, order and size of the cache.

Requests are those of the edit stage, for all captions that ``make demo`` made of its CIRCO val,
with one token to answer: hits do not depend on the answers. The model is the demo's LLM
``together``, to which most of SEIZE's words are one unknown word each; its answers do not count.
``python -m tests.benchmarks.prefixes --model FOLDER`` measures with another model.
"""

import random
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from pipeline import config, datasets
from pipeline.config import RuntimeConfig
from pipeline.models.serving import responses, vllm
from pipeline.models.serving.chat import ChatClient
from pipeline.run import Run
from pipeline.stages import caption, edit
from pipeline.stages.editor import Editor
from tests.benchmarks import report
from tests.benchmarks.report import Size
from tests.benchmarks.together import MODEL
from tests.conftest import PROJECT
from tests.vllm.conftest import binary

PROMPTS = ("seize", "seize-change-first", "demo")
QUERIES = {"small": 20, "full": 200}
IN_FLIGHT = 32
BLOCK = 32
"""Tokens of a block: what the prefix cache holds is whole ones. A GPU's are 16 by default, a CPU's
128, and a CPU takes no fewer than 32."""
FEW_BLOCKS = 512
"""A cache that holds less than all requests: so many blocks."""
ARGUMENTS = ("--enforce-eager", "--dtype", "float32", "--max-model-len", "512")
COLUMNS = ("prompt", "order", "cache", "tokens a prompt", "found in the cache", "requests a second")

Body = dict[str, Any]


def bodies(run: Run, prompt: str, shuffled: bool) -> list[Body]:
    """Return the requests of the edit stage with a prompt, as it sends them or in random order.

    They share nothing with those of other calls: a salt keeps caches apart.
    """
    chosen = config.load("demo", {"llm.prompt": prompt})
    pairs = edit.pairs(run, caption.read(run))
    made: list[Body] = [
        {"messages": request.messages, "max_tokens": 1, "temperature": 0.0}
        for request in Editor(chosen).requests(pairs)
    ]
    if shuffled:
        random.Random(0).shuffle(made)
    salt = f"{prompt} {shuffled} {time.monotonic_ns()}"
    return [body | {"cache_salt": salt} for body in made]


def looked_up(url: str) -> tuple[int, int]:
    """Return how many tokens a vLLM looked for in its prefix cache so far, and found there."""
    with urllib.request.urlopen(f"{url.removesuffix('/v1')}/metrics") as response:
        told = responses.prefix_cache(response.read().decode())
    return told or (0, 0)


def row(url: str, model: str, asked: Sequence[Body]) -> list[str]:
    """Return tokens a prompt, the share found, and requests a second."""
    client = ChatClient(url, model, RuntimeConfig(concurrency=IN_FLIGHT, timeout=600))
    before, begun = looked_up(url), time.perf_counter()
    answers = list(client.complete(enumerate(asked)))
    seconds = time.perf_counter() - begun
    assert all(answer.reason is None for answer in answers)
    queries, hits = (now - then for now, then in zip(looked_up(url), before, strict=True))
    tokens = sum(answer.tokens for answer in answers) / len(answers) - 1
    share = f"{hits / queries:.1%} ({hits:,} of {queries:,})" if queries else "off"
    return [f"{tokens:.0f}", share, f"{len(asked) / seconds:.1f}"]


def rows(
    run: Run, model: str, caches: dict[str, Sequence[str]], orders: dict[str, bool]
) -> list[list[str]]:
    """Serve the model once a cache; return a line a prompt, order and cache."""
    found = []
    for cache, arguments in caches.items():
        with tempfile.TemporaryDirectory() as name:
            every = [*ARGUMENTS, "--block-size", str(BLOCK), *arguments]
            with vllm.serve(model, Path(name) / "vllm.log", binary(), every) as url:
                row(url, model, bodies(run, PROMPTS[0], True)[:IN_FLIGHT])  # starts are slow
                for prompt in PROMPTS:
                    for order, shuffled in orders.items():
                        cells = row(url, model, bodies(run, prompt, shuffled))
                        found.append([f"`{prompt}`", order, cache, *cells])
    return sorted(found, key=lambda cells: PROMPTS.index(cells[0].strip("`")))


def measured(model: str, count: int, size: Size) -> str:
    """Return the table of one model."""
    loaded = datasets.load("circo", "val", PROJECT / "data" / "demo")
    loaded.queries = loaded.queries[:count]
    small = f"{FEW_BLOCKS * BLOCK:,} tokens"
    caches: dict[str, Sequence[str]] = {small: ("--num-gpu-blocks-override", str(FEW_BLOCKS))}
    if size == "full":
        caches = {
            "none": ("--no-enable-prefix-caching",),
            "holds all": (),
            **caches,
        }
    with tempfile.TemporaryDirectory() as folder:
        kept = PROJECT / "cache"
        cache = kept if (kept / "circo-val").exists() else Path(folder) / "cache"
        run = Run(loaded, config.load("demo"), cache, Path(folder) / "submissions")
        caption.caption(run)
        found = rows(run, model, caches, {"as asked": False, "shuffled": True})
    title = f"Prefix cache: edits of {count} queries of the demo's CIRCO val, {IN_FLIGHT} in flight"
    return report.table(title, COLUMNS, found)


def tables(size: Size) -> Iterator[str]:
    """Yield one table, or what is lacking for it."""
    if not Path(binary()).exists():
        yield "Prefix cache: not measured, since no vLLM is installed (`make test-vllm` does it).\n"
        return
    yield measured(str(MODEL), QUERIES[size], size)


@click.command()
@click.option("--model", required=True, help="folder of a chat model")
@click.option("--queries", "count", default=20, show_default=True)
def main(model: str, count: int) -> None:
    """Print a Markdown table."""
    print(measured(model, count, "full"))


if __name__ == "__main__":
    main()

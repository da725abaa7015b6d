"""What a vLLM's prefix cache holds of the prompts of edits: the second table of ``together``.

Requests are those of the edit stage, for the captions that the demo made of its CIRCO val, with one
token to answer: hits do not depend on the answers. To the demo's LLM ``together`` most of SEIZE's
words are one unknown word each; ``python -m tests.benchmarks.prefixes --model FOLDER`` measures
with another model's tokens.
"""

import contextlib
import random
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from transformers import AutoTokenizer

from pipeline import config, datasets
from pipeline.config import RuntimeConfig
from pipeline.models.serving import responses, vllm
from pipeline.models.serving.chat import ChatClient
from pipeline.run import Run
from pipeline.stages import caption, edit
from pipeline.stages.editor import Editor
from tests.benchmarks import report
from tests.conftest import PROJECT
from tests.vllm.conftest import binary

PROMPTS = ("seize", "seize-change-first", "demo")
WAYS = ("alone", "shuffled", "as asked")
"""``alone``: nothing is shared between requests, as without a cache."""
QUERIES = 60
IN_FLIGHT = 32
BLOCK_SIZES = (16, 32, 128)
BLOCK, BLOCKS = 32, 512
"""Tokens of a block, and blocks: the cache holds whole ones, and fewer than all requests need. A
GPU's blocks are of 16 by default, a CPU's of 128, and a CPU takes none below 32."""
ARGUMENTS = (
    *("--enforce-eager", "--dtype", "float32", "--max-model-len", "800"),
    *("--block-size", str(BLOCK), "--num-gpu-blocks-override", str(BLOCKS)),
)
COLUMNS = ("prompt", "requests", "tokens a prompt", "found in the cache", "requests a second")

Body = dict[str, Any]


def bodies(run: Run, prompt: str, way: str) -> list[Body]:
    """Return the requests of the edit stage with a prompt, as it sends them or in random order.

    They share nothing with those of other calls: a salt keeps what is in the cache apart.
    """
    chosen = config.load("demo", {"llm.prompt": prompt})
    made: list[Body] = [
        {"messages": request.messages, "max_tokens": 1, "temperature": 0.0}
        for request in Editor(chosen).requests(edit.pairs(run, caption.read(run)))
    ]
    if way != "as asked":
        random.Random(0).shuffle(made)
    salt = f"{prompt} {way} {time.monotonic_ns()}"
    return [
        body | {"cache_salt": f"{salt} {number}" if way == "alone" else salt}
        for number, body in enumerate(made)
    ]


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
    return [
        f"{tokens:.0f}",
        f"{hits / max(queries, 1):.1%} ({hits:,} of {queries:,})",
        f"{len(asked) / seconds:.1f}",
    ]


def shared(prompts: Sequence[Sequence[int]], block: int) -> float:
    """Return the share of tokens in blocks that begin an earlier prompt, too, if none is dropped.

    The last block of a prompt is never found whole: its last token is computed, to be answered.
    """
    seen: set[tuple[int, ...]] = set()
    found = 0
    for ids in prompts:
        begins = [tuple(ids[:end]) for end in range(block, len(ids) + 1, block)]
        found += block * sum(begin in seen for begin in begins if len(begin) < len(ids))
        seen.update(begins)
    return found / sum(map(len, prompts))


def counted(model: str, count: int) -> str:
    """Return the table of ``shared`` by prompt and block, in a model's tokens; asks no server."""
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    rows = []
    with run_of(count) as run:
        for prompt in PROMPTS:
            asked = [
                tokenizer.encode(
                    tokenizer.apply_chat_template(
                        body["messages"], add_generation_prompt=True, tokenize=False
                    ),
                    add_special_tokens=False,
                )
                for body in bodies(run, prompt, "as asked")
            ]
            tokens = sum(map(len, asked)) / len(asked)
            shares = (f"{shared(asked, block):.1%}" for block in BLOCK_SIZES)
            rows.append([f"`{prompt}`", f"{tokens:.0f}", *shares])
    columns = ("prompt", "tokens a prompt", *(f"blocks of {block}" for block in BLOCK_SIZES))
    return report.table(f"Shared tokens of the edits of {count} queries", columns, rows)


@contextlib.contextmanager
def run_of(count: int) -> Iterator[Run]:
    """Yield a run over queries of the demo's CIRCO val with their captions."""
    loaded = datasets.load("circo", "val", PROJECT / "data" / "demo")
    loaded.queries = loaded.queries[:count]
    with tempfile.TemporaryDirectory() as folder:
        kept = PROJECT / "cache"
        cache = kept if (kept / "circo-val").exists() else Path(folder) / "cache"
        run = Run(loaded, config.load("demo"), cache, Path(folder) / "submissions")
        caption.caption(run)
        yield run


def measured(url: str, model: str, count: int) -> str:
    """Return the table of a model that a vLLM serves: a line a prompt and way to ask."""
    found = []
    with run_of(count) as run:
        row(url, model, bodies(run, PROMPTS[0], WAYS[0])[:IN_FLIGHT])  # the first ones are slow
        for prompt in PROMPTS:
            for way in WAYS:
                found.append([f"`{prompt}`", way, *row(url, model, bodies(run, prompt, way))])
    title = (
        f"Prefix cache of {BLOCKS * BLOCK:,} tokens in blocks of {BLOCK}: edits of {count} queries "
        f"of the demo's CIRCO val, {IN_FLIGHT} in flight"
    )
    return report.table(title, COLUMNS, found)


@click.command()
@click.option("--model", required=True, help="folder of a chat model")
@click.option("--queries", "count", default=10, show_default=True)
@click.option("--counted", "only_count", is_flag=True, help="count tokens; without a vLLM")
def main(model: str, count: int, only_count: bool) -> None:
    """Print a Markdown table."""
    if only_count:
        print(counted(model, count))
        return
    with (
        tempfile.TemporaryDirectory() as name,
        vllm.serve(model, Path(name) / "vllm.log", binary(), ARGUMENTS) as url,
    ):
        print(measured(url, model, count))


if __name__ == "__main__":
    main()

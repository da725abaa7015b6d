"""All captions of a query edited by one call, against a call for each: what it costs and gives.

The demo's LLM ``together`` knows both (``pipeline/demo/together.py``); a vLLM serves it where one
is installed and the size is ``full``, and else it runs in process, without the JSON schema.
``python -m tests.benchmarks.together --url URL --model NAME`` measures any LLM that a server runs.
"""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import click
from transformers import AutoTokenizer

from pipeline import config, datasets
from pipeline.demo.training import MODELS
from pipeline.models import llms
from pipeline.models.serving import vllm
from pipeline.run import Run
from pipeline.stages import caption, edit
from pipeline.stages.everything import run_stages
from pipeline.study import compare
from tests.benchmarks import prefixes, report
from tests.benchmarks.report import Size
from tests.conftest import PROJECT
from tests.vllm.conftest import binary

MODEL = MODELS / "together"
PROMPTS = ("demo", "demo-together")
QUERIES = {"small": 20, "full": 200}
METRICS = ("mAP@5", "mAP@10")
MEASURES = (
    *("calls a query", "tokens asked a query", "tokens answered a query", "seconds a query"),
    *("failed edits", "edits that are the caption again", "distinct edits"),
    *("edits as the demo's own LLM makes them", *METRICS),
    f"{METRICS[0]} against the first",
)


class Counted:
    """An LLM whose calls and tokens are counted, by the tokenizer of the model."""

    def __init__(self, llm: llms.Llm, tokenizer: Any) -> None:
        self.llm, self.tokenizer = llm, tokenizer
        self.calls = self.asked = self.answered = 0

    @property
    def notes(self) -> list[str]:
        """What the LLM says."""
        return list(getattr(self.llm, "notes", ()))

    def answer(self, requests: Iterable[llms.Request]) -> Iterator[llms.Answer]:
        """Yield what the LLM answers."""
        for answer in self.llm.answer(map(self._asks, requests)):
            self.answered += len(self.tokenizer.tokenize(answer.text or ""))
            yield answer

    def _asks(self, request: llms.Request) -> llms.Request:
        text = self.tokenizer.apply_chat_template(
            request.messages, add_generation_prompt=True, tokenize=False
        )
        self.calls, self.asked = self.calls + 1, self.asked + len(self.tokenizer.tokenize(text))
        return request


class Measured(NamedTuple):
    """What one prompt cost, and the figures that it led to."""

    cells: list[str]
    row: compare.Row


def measure(prompt: str, run: Run, tokenizer: Any, usual: dict[str, list[str | None]]) -> Measured:
    """Edit, search and evaluate with one prompt."""
    counted = Counted(llms.load(run.config.llm, run.config.runtime), tokenizer)
    with mock.patch.object(llms, "load", return_value=counted):
        begun = time.perf_counter()
        told = edit.edit(run)
        seconds = time.perf_counter() - begun
    run_stages(run)
    for note in told.notes:
        print(f"{prompt}: {note}")
    captions, edits = caption.read(run), edit.read(run)
    pairs = [
        (pair.caption, made, other)
        for query in run.queries
        for pair, made, other in zip(
            edit.query_pairs(run, query, captions), edits[query.id], usual[query.id], strict=True
        )
    ]
    made = [text for _, text, _ in pairs if text is not None]
    cells = [
        *(f"{n / len(run.queries):,.1f}" for n in (counted.calls, counted.asked, counted.answered)),
        f"{seconds / len(run.queries):.3f}",
        f"{len(pairs) - len(made)} of {len(pairs)}",
        f"{sum(said == before for before, said, _ in pairs)} of {len(pairs)}",
        f"{len(set(made)) / max(len(made), 1):.0%}",
        f"{sum(said == other for _, said, other in pairs) / len(pairs):.1%}",
    ]
    (found,) = compare.rows_of_run(run)
    return Measured(cells, replace(found, name=f"`{prompt}`"))


def measured(
    model: str, url: str | None, count: int, prompts: Sequence[str], settings: dict[str, Any]
) -> list[list[str]]:
    """Return a column a prompt, over the first ``count`` queries of the demo's CIRCO val."""
    loaded = datasets.load("circo", "val", PROJECT / "data" / "demo")
    loaded.queries = loaded.queries[:count]
    tokenizer: Any = AutoTokenizer.from_pretrained(model.removeprefix("transformers:"))
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        if (PROJECT / "cache" / "circo-val").exists():  # what `make demo` captioned and embedded
            for part in ("circo", "circo-val/caption", "circo-val/edit"):
                shutil.copytree(PROJECT / "cache" / part, cache / part)

        def run(**changes: Any) -> Run:
            chosen = config.load("demo", changes)
            return Run(loaded, chosen, cache, Path(folder) / "submissions")

        caption.caption(run())
        edit.edit(run())
        usual = edit.read(run())
        given = {"llm.model": model, **({"llm.url": url} if url else {}), **settings}
        runs = {prompt: run(**given, **{"llm.prompt": prompt}) for prompt in prompts}
        found = [measure(prompt, one, tokenizer, usual) for prompt, one in runs.items()]
    rows = [made.row for made in found]
    cells = compare.compare(loaded, rows, rows[0].name).set_index(["method", "metric"])
    return [
        [
            *cells_of.cells,
            *(f"{cells.loc[(row.name, metric), 'value']:.2f}" for metric in METRICS),
            "" if row is rows[0] else compare.difference(cells.loc[(row.name, METRICS[0])]),
        ]
        for cells_of, row in zip(found, rows, strict=True)
    ]


def shown(title: str, prompts: Sequence[str], found: Sequence[Sequence[str]]) -> str:
    """Return a table of a column a prompt."""
    columns = ["measure", *(f"`{prompt}`" for prompt in prompts)]
    return report.table(title, columns, zip(MEASURES, *found, strict=True))


@contextlib.contextmanager
def served(size: Size) -> Iterator[tuple[str, str | None, str]]:
    """Yield the model's name, a vLLM's address or None, and in words what runs it."""
    if size == "small" or not Path(binary()).exists():
        why = "" if size == "small" else ": no vLLM is installed"
        yield f"transformers:{MODEL}", None, f"in process{why}"
        return
    with (
        tempfile.TemporaryDirectory() as name,
        vllm.serve(str(MODEL), Path(name) / "vllm.log", binary(), prefixes.ARGUMENTS) as url,
    ):
        yield str(MODEL), url, "served by vLLM, answers held to the JSON schema"


def tables(size: Size) -> Iterator[str]:
    """Yield a table of a column a prompt and, where a vLLM serves, one of its prefix cache."""
    with served(size) as (model, url, where):
        found = measured(model, url, QUERIES[size], PROMPTS, {})
        title = f"Edits of {QUERIES[size]} queries of the demo's CIRCO val by its LLM `together`"
        yield shown(f"{title}, {where}", PROMPTS, found)
        if url:
            yield prefixes.measured(url, model, prefixes.QUERIES)


@click.command()
@click.option("--url", required=True, help="a server that runs")
@click.option("--model", required=True, help="its name there, and the folder of its tokenizer")
@click.option("--queries", "count", default=12, show_default=True)
@click.option("--prompts", default="seize,together", show_default=True)
@click.option("--attempts", default=3, show_default=True, help="times a bad answer is asked for")
def main(url: str, model: str, count: int, prompts: str, attempts: int) -> None:
    """Print a Markdown table."""
    settings = {"llm.attempts": attempts, "runtime.timeout": 600}
    names = prompts.split(",")
    found = measured(model, url, count, names, settings)
    print(shown(f"One call a query: {count} queries of the demo's CIRCO val", names, found))


if __name__ == "__main__":
    main()

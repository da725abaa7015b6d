"""All captions of a query edited by one call, against a call for each: what it costs and gives.

``python -m tests.benchmarks.together --url URL --model NAME`` edits some of the demo's CIRCO val
queries by both, with an LLM that a server runs: the demo's own knows neither prompt, and no JSON.
"""

import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from pipeline import config, datasets
from pipeline.models import llms
from pipeline.models.serving.chat import Completion
from pipeline.run import Run
from pipeline.stages import caption, edit
from pipeline.stages.everything import run_stages
from tests.benchmarks import report
from tests.conftest import PROJECT

METRIC = "mAP@10"


class Counted:
    """A client whose calls and tokens are counted."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.calls = self.tokens = 0

    @property
    def notes(self) -> list[str]:
        """What the client says."""
        notes: list[str] = self.client.notes
        return notes

    def complete(self, requests: Iterable[Any]) -> Iterator[Completion]:
        """Yield what the client yields."""
        for done in self.client.complete(requests):
            self.calls += 1
            self.tokens += done.tokens
            yield done


def row(prompt: str, run: Run) -> list[str]:
    """Edit, search and evaluate with one prompt; return its line of the table."""
    llm: Any = llms.load(run.config.llm, run.config.runtime)
    llm.client = counted = Counted(llm.client)
    begun = time.perf_counter()
    told = edit.edit(run)
    seconds = time.perf_counter() - begun
    _, metrics = run_stages(run)
    edits = [text for texts in edit.read(run).values() for text in texts]
    for note in told.notes:
        print(f"{prompt}: {note}")
    return [
        f"`{prompt}`",
        f"{counted.calls / len(run.queries):.1f}",
        f"{counted.tokens / len(run.queries):,.0f}",
        f"{seconds / len(run.queries):.1f}",
        f"{sum(text is None for text in edits)} of {len(edits)}",
        f"{len({text for text in edits if text}) / max(sum(map(bool, edits)), 1):.0%}",
        f"{metrics[METRIC]:.1f}",
    ]


@click.command()
@click.option("--url", required=True, help="a server that runs")
@click.option("--model", required=True, help="its name there")
@click.option("--queries", "count", default=12, show_default=True)
@click.option("--prompts", default="seize,together", show_default=True)
@click.option("--attempts", default=3, show_default=True, help="times a bad answer is asked for")
def main(url: str, model: str, count: int, prompts: str, attempts: int) -> None:
    """Print a Markdown table."""
    loaded = datasets.load("circo", "val", PROJECT / "data" / "demo")
    loaded.queries = loaded.queries[:count]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for prompt in prompts.split(","):
            settings = config.load(
                "demo",
                {
                    "llm.model": model,
                    "llm.url": url,
                    "llm.prompt": prompt,
                    "llm.attempts": attempts,
                    "runtime.timeout": 600,
                },
            )
            run = Run(loaded, settings, Path(name) / "cache", Path(name) / "submissions")
            caption.caption(run)
            rows.append(row(prompt, run))
    columns = [
        *("prompt", "calls a query", "tokens a query", "seconds a query", "failed edits"),
        *("distinct edits", METRIC),
    ]
    print(report.table(f"One call a query: {count} queries of the demo's CIRCO val", columns, rows))


if __name__ == "__main__":
    main()

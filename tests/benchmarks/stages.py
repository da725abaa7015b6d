"""Rates of each stage on the demo world, as a Markdown table: ``make bench``.

Nothing here passes or fails; the table says what this machine does.
"""

import os
import platform
import tempfile
from pathlib import Path

import click
import torch

from pipeline import config, datasets
from pipeline.caption import caption
from pipeline.demo.build import build
from pipeline.edit import edit
from pipeline.embed import embed
from pipeline.run import Run, StageReport
from pipeline.search import search


@click.command()
@click.option("--data-root", type=click.Path(path_type=Path), default=Path("data/demo"))
@click.option("--queries", default=100, show_default=True, help="queries of CIRCO-layout val")
def main(data_root: Path, queries: int) -> None:
    """Run the stages with an empty cache and print items a second."""
    data_root.parent.mkdir(parents=True, exist_ok=True)
    build(data_root)
    rows: list[tuple[str, StageReport]] = []
    with tempfile.TemporaryDirectory() as folder:
        for batch in (1, 32):
            settings = config.load("demo", {"runtime.caption_batch": batch})
            dataset = datasets.load("circo", "val", data_root)
            dataset.limit(queries)
            run = Run(dataset, settings, Path(folder) / str(batch), Path(folder))
            rows.append((f"caption, {batch} images a batch", caption(run)))
        rows.append(("edit, in process", edit(run)))
        images, texts = embed(run)
        rows += [
            ("embed images", images),
            ("embed texts", texts),
            ("search, 6,000 images", search(run)),
        ]
    click.echo(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch "
        f"{torch.__version__}, {'GPU' if torch.cuda.is_available() else 'no GPU'}; loading of "
        "models included.\n\n| stage | items | seconds | items a second |\n"
        "| --- | --: | --: | --: |"
    )
    for name, report in rows:
        rate = report.computed / max(report.seconds, 0.01)
        click.echo(f"| {name} | {report.computed} | {report.seconds:.1f} | {rate:.0f} |")


if __name__ == "__main__":
    main()

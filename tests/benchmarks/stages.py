"""Rates of each stage on the demo world: ``make bench ARGS=stages``."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline import config, datasets
from pipeline.demo.build import build
from pipeline.run import Run, StageReport
from pipeline.stages.caption import caption
from pipeline.stages.edit import edit
from pipeline.stages.embed import embed
from pipeline.stages.search import search
from tests.benchmarks.report import Size, table


def tables(size: Size, data_root: Path = Path("data/demo")) -> Iterator[str]:
    """Run the stages with an empty cache; loading of models counts."""
    data_root.parent.mkdir(parents=True, exist_ok=True)
    build(data_root)
    rows: list[tuple[str, StageReport]] = []
    with tempfile.TemporaryDirectory() as folder:
        for batch in (1, 32):
            settings = config.load("demo", {"runtime.caption_batch": batch})
            dataset = datasets.load("circo", "val", data_root)
            dataset.limit(100 if size == "full" else 30)
            run = Run(dataset, settings, Path(folder) / str(batch), Path(folder))
            rows.append((f"caption, {batch} images a batch", caption(run)))
        rows.append(("edit, in process", edit(run)))
        images, texts = embed(run)
        (ranking,) = search(run)
        rows += [("embed images", images), ("embed texts", texts), ("search", ranking)]
    yield table(
        f"Stages on the demo, {len(dataset.queries)} queries, {len(dataset.images):,} images; "
        "loading of models included",
        ("stage", "items", "seconds", "items a second"),
        [
            (name, r.computed, f"{r.seconds:.1f}", f"{r.computed / max(r.seconds, 0.01):.0f}")
            for name, r in rows
        ],
    )

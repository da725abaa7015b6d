"""The demo: every stage on the rendered world. Only the names of models and data are its own."""

import logging
import shlex
from pathlib import Path
from typing import Any

from pipeline import datasets
from pipeline.config import Config
from pipeline.datasets import circo
from pipeline.demo import levers
from pipeline.demo.build import build
from pipeline.images.pictures import contact_sheet
from pipeline.installation import WORLD
from pipeline.run import Run
from pipeline.stages import search, submit
from pipeline.stages.everything import run_stages
from pipeline.store.files import atomic

log = logging.getLogger("seize")

SPLITS = (
    ("circo", "val"),
    ("circo", "test"),
    ("cirr", "val"),
    ("cirr", "test1"),
    ("fashioniq", "val"),
)
PICTURES = f"CIRCO/{circo.IMAGES}"
"""The gallery that the page is opened on."""


def run_demo(folder: Path, config: Config) -> dict[str, Any]:
    """Run all stages below ``folder``; return metrics a split, and the files that were written."""
    root = folder / "data" / "demo"
    if not (root / WORLD).exists():
        log.info("[demo] renders the world into %s", root)
        root.parent.mkdir(parents=True, exist_ok=True)
        build(root)
    metrics: dict[str, dict[str, float]] = {}
    measured: list[Run] = []
    submissions: list[str] = []
    sheet = folder / "outputs" / "demo-circo-val.png"
    for name, split in SPLITS:
        command = f"--config demo --dataset {name} --split {split} --data-root {root}"
        dataset = datasets.load(name, split, root)
        run = Run(dataset, config, folder / "cache", folder / "submissions", command)
        _, values = run_stages(run)
        if values is not None:
            metrics[run.name] = values
        if split.startswith("test"):
            submissions += [str(file) for file in submit.files(run).values()]
        if run.name == "circo-val":
            with atomic(sheet) as temporary:
                contact_sheet(run, search.read(run)).save(temporary, format="PNG")
        if values is not None:
            measured.append(run)
    costs = folder / "outputs" / "demo-cost.png"
    compared = levers.table(measured, levers.shown(), picture=costs)
    cache = [] if folder == Path(".") else ["--cache", str(folder / "cache")]
    report = [
        "report",
        "--config",
        "demo",
        "--dataset",
        "circo",
        "--split",
        "val",
        "--compare",
        "pdv",
    ]
    return {
        "metrics": metrics,
        "levers": compared.to_dict(orient="records"),
        "submissions": submissions,
        "contact_sheet": str(sheet),
        "cost": str(costs),
        "page": shlex.join(["app", str(root / PICTURES), "--config", "demo", *cache, "--open"]),
        "report": shlex.join([*report, "--data-root", str(root), *cache, "--open"]),
        "next": f"run --config demo --dataset circo --split val --data-root {root} --alpha-neg 0.5",
    }

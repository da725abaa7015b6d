"""Does the semantic editing increment tell targets from their rivals on the demo?

``python -m tests.benchmarks.increment``, after ``make demo``. For each layout: the target's mean
increment Δ = s_after − s_before, that of the other images among the ten of highest absolute
similarity, and how often the target's is negative.
"""

from pathlib import Path

import torch

from pipeline import config, datasets
from pipeline.retrieval.scoring import normalise
from pipeline.run import Run
from pipeline.stages.inputs import Inputs


def main() -> None:
    """Print one line a layout."""
    for name in ("circo", "cirr", "fashioniq"):
        dataset = datasets.load(name, "val", Path("data/demo"))
        run = Run(dataset, config.load("demo"), Path("cache"), Path("submissions"))
        inputs = Inputs(run)
        content, composed = (inputs.clues.vectors(name) for name in ("content", "composed"))
        row = {image: i for i, image in enumerate(inputs.images.names)}
        gallery = normalise(torch.from_numpy(inputs.images.all()).float())
        change = (composed - content) @ gallery.T
        best = (composed @ gallery.T).topk(11, dim=1).indices
        targets, rivals = [], []
        for i, query in enumerate(run.queries):
            target, own = row[query.target or ""], {row[query.reference], row[query.target or ""]}
            targets.append(change[i, target])
            rivals.append(change[i, [j for j in best[i].tolist() if j not in own][:10]].mean())
        lifted, rival = torch.stack(targets), torch.stack(rivals)
        print(
            f"{run.name}: increment of the target {lifted.mean():.3f}, of its rivals "
            f"{rival.mean():.3f}; negative for {100 * (lifted < 0).float().mean():.0f} % of the "
            f"targets, below the rivals' for {100 * (lifted < rival).float().mean():.0f} %"
        )


if __name__ == "__main__":
    main()

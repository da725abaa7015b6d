"""The files of a training: checkpoints by step, what it goes on from, its record and its curve."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.errors import ConfigError, InputError
from pipeline.store.files import atomic, storage_errors, write_text

Point = dict[str, Any]
"""One point of the curve: ``step``, the means of the losses since the last one, and the rate."""


class Files:
    """The folder of one training, beside the weights that it ends in."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = folder_of(out)
        self.state = self.folder / "state.pt"
        self.losses = self.folder / "losses.jsonl"
        self.validation = self.folder / "validation.jsonl"
        self.record = self.folder / "training.json"
        self.curve = self.folder / "loss.png"

    def checkpoint(self, step: int) -> Path:
        """Return where the weights after a step are kept."""
        return self.folder / f"step-{step:09}.safetensors"

    def checkpoints(self) -> dict[int, Path]:
        """Return the checkpoints that are there, by step."""
        found = sorted(self.folder.glob("step-*.safetensors"))
        return {int(file.stem.removeprefix("step-")): file for file in found}

    def load(self, header: Mapping[str, Any], device: torch.device) -> dict[str, Any] | None:
        """Return what a training goes on from, None for a new one.

        Raises InputError for a file that cannot be read, ConfigError for a training that was begun
        with anything else than ``header``.
        """
        if not self.state.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.state, map_location=device, weights_only=True)
            begun = json.loads(state["header"])
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{self.state} cannot be read ({reason}). Delete it to train anew."
            ) from None
        own = json.loads(json.dumps(header))
        if changed := [name for name in own if begun.get(name) != own[name]]:
            name = changed[0]
            raise ConfigError(
                f"{self.folder} was begun with {name} {begun.get(name)!r}, not {own[name]!r}. "
                "Give another --out, or remove that folder."
            )
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Write what a training goes on from, completely or not at all."""
        with atomic(self.state) as temporary:
            torch.save(dict(state), temporary)

    def add(self, file: Path, line: Mapping[str, Any]) -> None:
        """Append a line to one of the records."""
        with storage_errors(file), file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def rewrite(self, file: Path, lines: Sequence[Mapping[str, Any]]) -> None:
        """Write a record anew: a training goes on from its state, before which it may have been."""
        write_text(file, "".join(json.dumps(line) + "\n" for line in lines))


def folder_of(out: Path) -> Path:
    """Return where the checkpoints, the curve and the record of a training are."""
    return out.with_suffix(".training")


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a record; one that a kill tore is left out."""
    found = []
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    for line in text.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def write_weights(
    file: Path, weights: Mapping[str, Tensor], configuration: Mapping[str, Any], half: bool = False
) -> None:
    """Write weights with how they were made, completely or not at all; ``half`` as float16."""
    dtype = torch.float16 if half else torch.float32
    stored = {name: value.detach().cpu().to(dtype).contiguous() for name, value in weights.items()}
    with atomic(file) as temporary:
        save_file(stored, temporary, {"configuration": json.dumps(configuration)})


def draw(file: Path, losses: Sequence[Point], validated: Mapping[str, Mapping[int, float]]) -> None:
    """Write the losses by step as a picture, with the metric by checkpoint below them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = 1 + len(validated)
    figure = Figure(figsize=(6, 3 * rows), layout="constrained")
    panels = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    terms = [name for name in (losses[-1] if losses else {}) if name not in ("step", "rate")]
    for name in terms:
        known = [point for point in losses if name in point]
        panels[0].plot([p["step"] for p in known], [p[name] for p in known], label=name)
    panels[0].set(ylabel="loss")
    if losses and all(point[name] > 0 for point in losses for name in terms if name in point):
        panels[0].set_yscale("log")
    if len(terms) > 1:
        panels[0].legend()
    for panel, (metric, values) in zip(panels[1:], validated.items(), strict=True):
        panel.plot(*zip(*sorted(values.items()), strict=True), marker="o")
        panel.set(ylabel=metric)
    for panel in panels:
        panel.grid(alpha=0.3)
    panels[-1].set(xlabel="step")
    with atomic(file) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))  # type: ignore[no-untyped-call]

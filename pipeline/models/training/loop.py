"""The loop that trains a task: what is trained, in which batches and by which loss, is the task's.

A step's batches and all that is random in them depend on the seed and the step alone, so a training
that was stopped anywhere goes on to the same weights, bit for bit on one device. Processes that
``accelerate launch`` started take a batch each, and step with the mean of their gradients.
"""

import functools
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.errors import ConfigError, InputError, ModelError
from pipeline.models.training.files import (
    Files,
    Point,
    draw,
    read_lines,
    write_weights,
)
from pipeline.models.training.settings import Settings
from pipeline.models.training.several import mean
from pipeline.models.training.task import Order as Order
from pipeline.models.training.task import Task as Task
from pipeline.processes import current
from pipeline.run import log, progress
from pipeline.store.files import lock, write_json

LOGGED = 50
"""Steps whose losses are averaged to one point of the curve."""


@dataclass(frozen=True)
class Validation:
    """How checkpoints are told apart: by the metric of a split, the higher the better."""

    metric: str
    """With the split, as in ``circo-val mAP@5``."""
    measure: Callable[[Path], float]
    """Returns the metric of a checkpoint's weights."""


@dataclass(frozen=True)
class Trained:
    """What a training did."""

    file: Path
    steps: int
    computed: int
    """Steps of this run; the others were there."""
    loss: float | None
    """The mean over the last steps."""
    best: int | None = None
    """The step whose weights the file holds, where checkpoints were validated."""
    metric: str | None = None
    value: float | None = None


def check(settings: Settings, items: int, out: Path, unit: str = "items") -> None:
    """Raise ConfigError for another kind of file, InputError for fewer items than a batch."""
    if out.suffix != ".safetensors":
        raise ConfigError(f"--out {out}: weights are written as safetensors; end the name so.")
    if items < settings.batch:
        raise InputError(
            f"{items:,} {unit} are fewer than a batch of {settings.batch:,}. Give more {unit}, or "
            "a smaller --batch."
        )


def train(
    task: Task,
    out: Path,
    settings: Settings,
    half: bool = False,
    validation: Validation | None = None,
) -> Trained:
    """Train ``task`` and write its weights to ``out`` as safetensors.

    Checkpoints by step, the losses (``losses.jsonl``), their curve and ``training.json`` are in a
    folder of its name that ends in ``.training``. With a ``validation`` the best checkpoint is
    what ``out`` gets, else the last. ``half`` writes float16.
    Raises ConfigError for settings that cannot be used or differ from those it was begun with,
    InputError for too few items, ModelError where a loss or gradient is no finite number any more:
    the checkpoints before stay.
    """
    check(settings, task.items, out)
    loop = _Loop(task, Files(out), settings, half, validation)
    if not current().main:
        return loop.run()
    with lock(loop.files.state):
        return loop.run()


class _Loop:
    """The state of one training."""

    def __init__(
        self,
        task: Task,
        files: Files,
        settings: Settings,
        half: bool,
        validation: Validation | None,
    ) -> None:
        self.task, self.files, self.settings, self.half = task, files, settings, half
        self.validation = validation
        self.processes = current()
        self.device = next(task.module.parameters()).device
        _check_precision(settings, self.device)
        count = self.processes.count
        self.total = settings.total(task.items, count)
        fixed = settings.fixed(self.total) | {"processes": count}
        self.header = fixed | {"method": task.name} | task.identity
        self.parameters = [p for p in task.module.parameters() if p.requires_grad]
        self.optimizer = optimizer(task.module, settings)
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=settings.precision == "float16"
        )
        self.step, self.seconds = 0, 0.0
        self.points: list[Point] = []
        self._recent: list[dict[str, float]] = []

    def run(self) -> Trained:
        """Train what is missing; see ``train``."""
        self._resume()
        begun, start = self.step, time.monotonic()
        earlier = self.seconds
        if self.settings.warmup >= self.total and self.processes.main:
            log.warning(
                "[train %s] the warmup of %s steps is not over after all %s: give a smaller "
                "--warmup.",
                self.task.name, f"{self.settings.warmup:,}", f"{self.total:,}",
            )  # fmt: skip
        if begun:
            log.info("[train %s] goes on from step %s", self.task.name, f"{begun:,}")
        with progress(self.total, begun, "step", f"train {self.task.name}") as bar:
            while self.step < self.total:
                self._advance()
                self.seconds = earlier + time.monotonic() - start
                bar.update(1)
                if self.step % self.settings.every == 0:
                    self._save()
        if self.step > begun and self.step % self.settings.every:
            self._save()
        validated = self._validate()
        best = max(validated, key=lambda step: (validated[step], -step)) if validated else None
        if self.processes.main:
            self._write_result(best, validated)
        self.processes.wait()
        return Trained(
            self.files.out,
            self.step,
            self.step - begun,
            self.points[-1]["loss"] if self.points else None,
            best,
            self.validation.metric if self.validation else None,
            None if best is None else validated[best],
        )

    def _advance(self) -> None:
        """Do one step of the optimiser."""
        settings, count = self.settings, self.processes.count
        self.optimizer.zero_grad()
        said: dict[str, float] = {}
        for part in range(settings.accumulate):
            number = (self.step * settings.accumulate + part) * count + self.processes.index
            batch = self.task.batch(number)
            torch.manual_seed(settings.seed * 1_000_003 + number + 1)
            with _autocast(settings, self.device):
                terms = self.task.losses(batch)
            total = functools.reduce(torch.add, terms.values())
            larger = total * self.task.enlarged / settings.accumulate
            self.scaler.scale(larger).backward()  # type: ignore[no-untyped-call]
            values = {"loss": total, **terms} if len(terms) > 1 else {"loss": total}
            for name, value in values.items():
                said[name] = said.get(name, 0.0) + value.item() / settings.accumulate
        self._mean_over_processes()
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self.scaler.unscale_(self.optimizer)
        if self.task.enlarged != 1.0:
            torch._foreach_div_(gradients, self.task.enlarged)
        if not all(map(math.isfinite, said.values())):
            raise self._broken("loss")
        # In float16 the scaler leaves a step out where gradients overflow, and scales less.
        if settings.precision != "float16" and not _finite(gradients):
            raise self._broken("gradient")
        rate = rate_at(self.step, settings, self.total, self._epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        self._note(said, rate)

    @property
    def _epoch(self) -> float:
        return self.settings.an_epoch(self.task.items, self.processes.count)

    def _mean_over_processes(self) -> None:
        """Give all processes the mean of their gradients: modules are called by their parts, so
        none is wrapped to do it."""
        if self.processes.count > 1:
            for parameter in self.parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            mean([p.grad for p in self.parameters if p.grad is not None])

    def _note(self, said: dict[str, float], rate: float) -> None:
        self._recent.append(said)
        if self.step % LOGGED and self.step != self.total:
            return
        count = len(self._recent)
        point: Point = {"step": self.step}
        point |= {name: sum(one[name] for one in self._recent) / count for name in said}
        self.points.append(point | {"rate": rate})
        self._recent = []
        if self.processes.main:
            self.files.folder.mkdir(parents=True, exist_ok=True)
            self.files.add(self.files.losses, self.points[-1])

    def _broken(self, what: str) -> ModelError:
        kept = list(self.files.checkpoints().values())
        last = f"The last good checkpoint is {kept[-1]}" if kept else "There is no checkpoint yet"
        return ModelError(
            f"The {what} is no finite number at step {self.step + 1:,}. {last}. Try a lower "
            "--rate, or --set clip.precision=float32, with another --out."
        )

    def _resume(self) -> None:
        state = self.files.load(self.header, self.device)
        if state is None:
            return
        if state["step"] > self.total:
            raise ConfigError(
                f"{self.files.folder} has {state['step']:,} steps already, more than --steps "
                f"{self.total:,}. Its checkpoints are there by step."
            )
        self.task.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.points, self._recent = list(state["points"]), list(state["recent"])
        if self.processes.main:
            self.files.rewrite(self.files.losses, self.points)

    def _save(self) -> None:
        """Write a checkpoint and all that is needed to go on from it."""
        weights = self.task.weights()
        if not _finite([value for value in weights.values() if value.is_floating_point()]):
            raise self._broken("weight")
        if self.processes.main:
            file = self.files.checkpoint(self.step)
            write_weights(file, weights, self.header | {"step": self.step})
            self.files.save(
                {
                    "header": json.dumps(self.header),
                    "module": self.task.module.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "scaler": self.scaler.state_dict(),
                    "step": self.step,
                    "seconds": self.seconds,
                    "points": self.points,
                    "recent": self._recent,
                }
            )
        self._validate()

    def _validate(self) -> dict[int, float]:
        """Return the metric by step of all checkpoints; those that have none are measured now."""
        if self.validation is None:
            return {}
        if not self.processes.main:
            self.processes.wait()
            return {}
        metric, file = self.validation.metric, self.files.validation
        found = {line["step"]: line[metric] for line in read_lines(file) if metric in line}
        known = {step: one for step, one in self.files.checkpoints().items() if step <= self.step}
        for step, checkpoint in known.items():
            if step not in found:
                found[step] = self.validation.measure(checkpoint)
                self.files.add(file, {"step": step, metric: found[step]})
                log.info("[train %s] step %s: %s %.2f", self.task.name, step, metric, found[step])
        self.processes.wait()
        return {step: found[step] for step in known}

    def _write_result(self, best: int | None, validated: dict[int, float]) -> None:
        told = self.header | {"step": self.step if best is None else best}
        weights = self.task.weights()
        if self.validation and best is not None:
            weights = load_file(self.files.checkpoint(best))
            told |= {"validation": {self.validation.metric: validated[best]}}
        write_weights(self.files.out, weights, told, self.half)
        by_metric = {self.validation.metric: validated} if self.validation else {}
        record = told | dict(self.task.record)
        record |= {
            "seconds": round(self.seconds),
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "losses": [(point["step"], round(point["loss"], 6)) for point in self.points],
        }
        write_json(self.files.record, record)
        draw(self.files.curve, self.points, by_metric)


def optimizer(module: nn.Module, settings: Settings) -> torch.optim.AdamW:
    """Return AdamW for a module; biases and norms are decayed only where the settings say so."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in module.parameters():
        decayed = settings.decay_all or parameter.ndim > 1
        (matrices if decayed else others).append(parameter)
    groups: list[dict[str, Any]] = [{"params": matrices, "weight_decay": settings.weight_decay}]
    if others:
        groups.append({"params": others, "weight_decay": 0.0})
    betas = (0.9, settings.beta2)
    return torch.optim.AdamW(groups, lr=settings.rate, betas=betas, eps=settings.epsilon)


def rate_at(step: int, settings: Settings, total: int, epoch: float) -> float:
    """Return the learning rate of the step after ``step`` others; ``epoch`` in steps.

    It rises over the warmup, then stays, falls along a cosine to nothing, or drops once.
    """
    rate, warmup = settings.rate, settings.warmup
    if step < warmup:
        return rate * min(1.0, (step + 1) / warmup)
    if settings.schedule == "cosine":
        done = (step - warmup) / max(total - warmup, 1)
        rate *= 0.5 * (1 + math.cos(math.pi * done))
    if settings.drop_after is not None and step >= settings.drop_after * epoch:
        rate *= 0.1
    return rate


def _check_precision(settings: Settings, device: torch.device) -> None:
    if settings.precision == "float16" and device.type == "cpu":
        raise ConfigError("--precision float16 needs a GPU; bfloat16 works on processors too.")


def _autocast(settings: Settings, device: torch.device) -> torch.autocast:
    mixed = settings.precision != "float32"
    dtype = getattr(torch, settings.precision) if mixed else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=mixed)


def _finite(tensors: list[Tensor]) -> bool:
    """Return whether all numbers are finite: as their sums are, which are several times faster.

    A sum of finite numbers may overflow, so one that is not finite decides nothing.
    """
    if math.isfinite(float(torch.stack([tensor.sum() for tensor in tensors]).sum())):
        return True
    return bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all())

"""The loop on a task of a few numbers: every step is known by hand, and real parts do the rest."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.errors import ConfigError, InputError, ModelError
from pipeline.models.training import loop
from pipeline.models.training.files import read_lines
from pipeline.models.training.loop import Order, Task, Trained, Validation, rate_at, train
from pipeline.models.training.settings import Settings
from pipeline.models.training.several import gathered
from tests.conftest import PROJECT

QUICK = Settings(steps=7, batch=4, rate=1e-2, every=3, epsilon=1e-4)


class Line(Task):
    """Finds a map from random points to their images, with noise where it is asked for."""

    name = "line"

    def __init__(self, settings: Settings, noise: float = 0.0, breaks_at: int = -1) -> None:
        self.items, self.identity = 24, {"noise": noise}
        self.noise, self.breaks_at = noise, breaks_at
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(self.items, 3, generator=generator)
        self.y = self.x @ torch.randn(3, 2, generator=generator)
        self.order = Order(self.items, settings.batch, settings.seed)
        torch.manual_seed(settings.seed)
        self.module: nn.Module = nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.Linear(6, 2))

    def batch(self, number: int) -> Any:
        places = self.order.of(number)
        broken = number == self.breaks_at
        return self.x[places], self.y[places] * (math.inf if broken else 1)

    def losses(self, batch: Any) -> Mapping[str, Tensor]:
        x, y = batch
        found = self.module(x + self.noise * torch.randn_like(x))
        return {"squares": (found - y).square().mean(), "size": 0.1 * found.square().mean()}


class Together(Line):
    """Compares the items of a batch with each other, as a contrast does."""

    def losses(self, batch: Any) -> Mapping[str, Tensor]:
        found, wanted = gathered(self.module(batch[0])), gathered(batch[1])
        return {"pairs": (found @ found.T - wanted @ wanted.T).square().mean()}


def run(out: Path, settings: Settings = QUICK, noise: float = 0.0, **given: Any) -> Trained:
    return train(Line(settings, noise), out, settings, **given)


def settings(**changed: Any) -> Settings:
    return Settings(**(QUICK.model_dump() | changed))


def same(one: Path, other: Path) -> bool:
    first, second = load_file(one), load_file(other)
    return all(torch.equal(first[name], second[name]) for name in first)


def test_the_steps_are_those_of_a_bare_loop(tmp_path: Path) -> None:
    own = QUICK
    run(tmp_path / "a.safetensors", own, 0.3)
    task = Line(own, 0.3)
    parameters = task.module.parameters()
    adam = torch.optim.AdamW(parameters, lr=own.rate, weight_decay=0.01, eps=own.epsilon)
    for step in range(own.steps):
        torch.manual_seed(step + 1)
        adam.zero_grad()
        terms = task.losses(task.batch(step))
        (terms["squares"] + terms["size"]).backward()  # type: ignore[no-untyped-call]
        adam.step()
    found = load_file(tmp_path / "a.safetensors")
    assert all(torch.equal(found[name], value) for name, value in task.module.state_dict().items())


@pytest.mark.parametrize("stops", [(1,), (3,), (4, 6)])
def test_a_stopped_training_goes_on_to_the_same_weights(
    stops: tuple[int, ...], tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    run(whole, noise=0.3)
    for stop in stops:
        run(parts, settings(steps=stop), noise=0.3)
    assert run(parts, noise=0.3).computed == 7 - stops[-1]
    assert same(whole, parts)
    assert run(parts, noise=0.3).computed == 0
    records = [tmp_path / f"{name}.training" / "losses.jsonl" for name in ("whole", "parts")]
    assert read_lines(records[0])[-1]["step"] == read_lines(records[1])[-1]["step"] == 7


def test_accumulated_batches_are_one_large_one(tmp_path: Path) -> None:
    large, small = tmp_path / "large.safetensors", tmp_path / "small.safetensors"
    run(large, settings(batch=8))
    run(small, settings(batch=2, accumulate=4))
    one, other = load_file(large), load_file(small)
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=2e-5, rtol=1e-4)


PROGRAM = """
import sys
from pathlib import Path
from pipeline.processes import current
from pipeline.models.training.loop import train
from tests.unit.models.training.test_loop import Together, run, settings
current()
own = settings(batch=4, steps=5)
run(Path(sys.argv[1]), own)
train(Together(own), Path(sys.argv[2]), own)
"""


def test_processes_step_with_the_mean_of_their_gradients(tmp_path: Path) -> None:
    """And a contrast is over the items of all: its gradient is that of one large batch."""
    program, out = tmp_path / "program.py", tmp_path / "two.safetensors"
    pairs = tmp_path / "pairs.safetensors"
    program.write_text(PROGRAM)
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--main_process_port", "0"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    done = subprocess.run(
        [sys.executable, *launch, str(program), str(out), str(pairs)],
        cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    own = settings(batch=8, steps=5)
    run(tmp_path / "one.safetensors", own)
    train(Together(own), tmp_path / "one-pairs.safetensors", own)
    for one, two in (("one", out), ("one-pairs", pairs)):
        weights, others = load_file(tmp_path / f"{one}.safetensors"), load_file(two)
        for name in weights:
            torch.testing.assert_close(weights[name], others[name], atol=2e-5, rtol=1e-4)
    with pytest.raises(ConfigError, match="begun with processes 2, not 1"):
        run(out, settings(batch=4, steps=9))


@pytest.mark.parametrize(("breaks_at", "kept"), [(1, None), (5, 3)])
def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(
    breaks_at: int, kept: int | None, tmp_path: Path
) -> None:
    out = tmp_path / "a.safetensors"
    said = f"step-{kept:09}" if kept else "no checkpoint yet"
    with pytest.raises(ModelError, match=rf"loss is no finite number at step {breaks_at + 1}\..*"):
        train(Line(QUICK, breaks_at=breaks_at), out, QUICK)
    with pytest.raises(ModelError, match=said):
        train(Line(QUICK, breaks_at=breaks_at), out, QUICK)
    assert not out.exists()
    for file in (tmp_path / "a.training").glob("step-*"):
        assert all(value.isfinite().all() for value in load_file(file).values())


def test_the_best_checkpoint_is_kept_and_named(tmp_path: Path) -> None:
    out, seen = tmp_path / "a.safetensors", []
    values = {3: 10.0, 6: 30.0, 7: 20.0}

    def measure(file: Path) -> float:
        seen.append(int(file.stem.removeprefix("step-")))
        return values[seen[-1]]

    run(out, noise=0.3)
    assert not seen
    # Validation may come later: checkpoints without a value are measured, each once.
    for _ in range(2):
        done = run(out, noise=0.3, validation=Validation("toy-val recall@1", measure))
        assert (done.best, done.metric, done.value) == (6, "toy-val recall@1", 30.0)
    assert seen == [3, 6, 7]
    folder = tmp_path / "a.training"
    assert same(out, folder / "step-000000006.safetensors")
    with safe_open(out, framework="pt") as stream:
        told = json.loads(stream.metadata()["configuration"])
    assert (told["step"], told["validation"]) == (6, {"toy-val recall@1": 30.0})
    lines = read_lines(folder / "validation.jsonl")
    assert {line["step"]: line["toy-val recall@1"] for line in lines} == values


def test_the_record_tells_every_term_and_the_curve_is_a_picture(tmp_path: Path) -> None:
    run(tmp_path / "a.safetensors", settings(steps=120, every=120))
    folder = tmp_path / "a.training"
    lines = read_lines(folder / "losses.jsonl")
    assert [line["step"] for line in lines] == [50, 100, 120]
    for line in lines:
        assert line["loss"] == pytest.approx(line["squares"] + line["size"])
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    # A kill may leave lines behind the state it goes on from, and half of one.
    with (folder / "losses.jsonl").open("a") as stream:
        stream.write(json.dumps({"step": 150, "loss": 0.0}) + '\n{"step": 20')
    run(tmp_path / "a.safetensors", settings(steps=200, every=120))
    steps = [line["step"] for line in read_lines(folder / "losses.jsonl")]
    assert steps == [50, 100, 120, 150, 200]


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="end the name so"):
        run(tmp_path / "a.pt")
    with pytest.raises(InputError, match="24 items are fewer than a batch of 25"):
        run(tmp_path / "a.safetensors", settings(batch=25))
    with pytest.raises(ConfigError, match="needs a GPU"):
        run(tmp_path / "a.safetensors", settings(precision="float16"))
    run(tmp_path / "a.safetensors")
    with pytest.raises(ConfigError, match=r"begun with rate 0\.01, not 0\.1"):
        run(tmp_path / "a.safetensors", settings(rate=0.1))
    with pytest.raises(ConfigError, match="7 steps already"):
        run(tmp_path / "a.safetensors", settings(steps=2))
    (tmp_path / "a.training" / "state.pt").write_bytes(b"torn")
    with pytest.raises(InputError, match="Delete it to train anew"):
        run(tmp_path / "a.safetensors")


def test_half_precision_computes_in_it_and_keeps_full_weights(tmp_path: Path) -> None:
    run(tmp_path / "a.safetensors", settings(precision="bfloat16"))
    run(tmp_path / "b.safetensors")
    one, other = load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "b.safetensors")
    assert one["0.weight"].dtype == torch.float32
    assert not torch.equal(one["0.weight"], other["0.weight"])
    torch.testing.assert_close(one["0.weight"], other["0.weight"], atol=0.05, rtol=0.1)
    run(tmp_path / "c.safetensors", half=True)
    assert load_file(tmp_path / "c.safetensors")["0.weight"].dtype == torch.float16


@given(items=st.integers(1, 50), batch=st.integers(1, 60), seed=st.integers(0, 5))
def test_every_item_is_seen_once_an_epoch(items: int, batch: int, seed: int) -> None:
    order = Order(items, batch, seed)
    seen = [place for number in range(items) for place in order.of(number)]
    for epoch in range(len(seen) // items):
        assert sorted(seen[epoch * items : (epoch + 1) * items]) == list(range(items))
    assert Order(items, batch, seed).of(items - 1) == order.of(items - 1)


def test_the_rate_rises_falls_and_drops() -> None:
    own = settings(rate=1.0, warmup=4, schedule="cosine", steps=14)
    assert [rate_at(step, own, 14, 5) for step in (0, 1, 3, 4)] == [0.25, 0.5, 1.0, 1.0]
    assert rate_at(9, own, 14, 5) == pytest.approx(0.5)
    assert rate_at(13, own, 14, 5) < 0.05
    drops = settings(rate=1.0, drop_after=2.0)
    assert [rate_at(step, drops, 100, 5) for step in (0, 9, 10, 99)] == [1, 1, 0.1, 0.1]


def test_biases_and_norms_can_be_left_undecayed() -> None:
    task = Line(QUICK)
    one, other = loop.optimizer(task.module, settings(decay_all=False)).param_groups
    assert {p.ndim for p in one["params"]} == {2}
    assert {p.ndim for p in other["params"]} == {1}
    assert (one["weight_decay"], other["weight_decay"]) == (0.01, 0.0)
    assert len(loop.optimizer(task.module, QUICK).param_groups) == 1


def test_epochs_are_counted_in_items() -> None:
    assert settings(epochs=100, batch=256).total(100_000) == 39_062
    assert settings(epochs=2, batch=4, accumulate=2).total(24, processes=3) == 2
    assert QUICK.total(24) == 7


def test_numbers_whose_sum_overflows_are_finite_and_what_cancels_in_a_sum_is_not():
    large = torch.full((4,), 3e38)
    assert not large.sum().isfinite()
    assert loop._finite([large, torch.zeros(2)])
    assert loop._finite([torch.zeros(0), torch.ones(1)])
    for wrong in (float("nan"), float("inf")):
        assert not loop._finite([torch.ones(3), torch.tensor([wrong, -wrong])])

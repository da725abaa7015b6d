"""How anything is trained. Loads no torch, so that a command can show it."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST = 1_000_000_000

Precision = Literal["float32", "bfloat16", "float16"]
Schedule = Literal["constant", "cosine"]

FREE = ("steps", "epochs", "every")
"""Settings that a training may go on with after others."""


class Settings(BaseModel):
    """What every recipe can be told; a recipe adds fields of its own in a subclass.

    A field's description, bounds and default make its command-line option.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    steps: int = Field(default=20_000, ge=1, le=MOST, description="steps of the optimiser")
    epochs: float | None = Field(
        default=None,
        gt=0,
        le=1_000_000,
        description="times that all items are seen, not --steps",
    )
    batch: int = Field(default=512, ge=1, le=1_000_000, description="items a step, of each process")
    rate: float = Field(default=1e-4, gt=0, le=1_000, description="learning rate of AdamW")
    weight_decay: float = Field(default=0.01, ge=0, le=1_000, description="of AdamW")
    decay_all: bool = Field(default=True, description="decay biases and norms as well as matrices")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="of AdamW")
    epsilon: float = Field(default=1e-8, gt=0, le=1, description="of AdamW")
    warmup: int = Field(default=0, ge=0, le=MOST, description="steps over which the rate rises")
    schedule: Schedule = Field(default="constant", description="of the rate after the warmup")
    drop_after: float | None = Field(
        default=None, gt=0, le=1_000_000, description="epochs after which the rate is a tenth"
    )
    accumulate: int = Field(default=1, ge=1, le=1_000_000, description="batches a step, one by one")
    precision: Precision = Field(default="float32", description="what the forward pass computes in")
    seed: int = Field(default=0, ge=0, le=2**32 - 1, description="of weights, order and noise")
    every: int = Field(default=1000, ge=1, le=MOST, description="steps between checkpoints")

    def total(self, items: int, processes: int = 1) -> int:
        """Return the steps of the whole training on ``items``."""
        if self.epochs is None:
            return self.steps
        return max(1, round(self.epochs * self.an_epoch(items, processes)))

    def an_epoch(self, items: int, processes: int = 1) -> float:
        """Return in how many steps all items are seen once."""
        return items / (self.batch * self.accumulate * processes)

    def fixed(self, total: int) -> dict[str, Any]:
        """Return what a training that goes on must have been begun with, as JSON-able data."""
        chosen = self.model_dump(mode="json", exclude=set(FREE))
        return chosen | ({"steps": total} if self.schedule == "cosine" else {})

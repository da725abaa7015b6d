"""What the training of a composer can be told. Loads no torch, so that a command can show it."""

from typing import Literal

from pydantic import Field

from pipeline.models.training import settings as training

TEMPERATURE = 0.07
"""Of InfoNCE, as CLIP4Cir and MTST have it."""

Aim = Literal["auto", "image", "text", "both"]


class Settings(training.Settings):
    """How a composer is trained. Temperature and the terms' weights are the papers'."""

    steps: int = Field(default=2000, ge=1, le=training.MOST, description="steps of the optimiser")
    batch: int = Field(default=256, ge=2, le=1_000_000, description="triplets a step")
    rate: float = Field(default=3e-4, gt=0, le=1_000, description="learning rate of AdamW")
    head: str = Field(default="combiner", description="the composer")
    hidden: int | None = Field(
        default=None, ge=1, le=100_000, description="width inside; the head's own by default"
    )
    aim: Aim = Field(
        default="auto",
        description="what queries are drawn to: target images, the feature of the targets' "
        "captions in their stead (SCOT), or both; auto: both, where there are both",
    )
    temperature: float = Field(default=TEMPERATURE, gt=0, le=100, description="of InfoNCE")
    smoothing: float = Field(default=0.0, ge=0, lt=1, description="of its labels; 0.1 in MTST")
    hard: bool = Field(
        default=True,
        description="take the reference image and its caption as hard negatives of their query",
    )
    reverse: float = Field(
        default=0.4, ge=0, le=1000, description="weight of the way back, where texts tell it"
    )
    prototype: float = Field(
        default=0.4, ge=0, le=1000, description="weight of MTST's prototype term, for two-hop"
    )

"""The sections of a configuration that name models, with what each is asked and how."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from pipeline.config.base import LARGEST_SEED, Precision, Section

Kind = Literal["confidence", "average"]


class CaptionerConfig(Section):
    """Captions of the reference images by nucleus sampling (SEIZE, section 3.1)."""

    model: str = Field(
        description="BLIP-2 checkpoint: hub name or folder; served:NAME for a vision model at url; "
        "KIND:NAME for other kinds"
    )
    url: str | list[str] = Field(
        default="http://localhost:8000/v1",
        min_length=1,
        description="OpenAI-compatible server, or a list of several that serve the same model",
    )
    revision: str | None = None
    prompt: str | None = Field(
        default=None, description="what the caption starts from; the captioner's own by default"
    )
    samples: int = Field(default=15, ge=1, le=1000, description="captions an image")
    top_p: float = Field(default=0.9, gt=0, le=1)
    temperature: float = Field(default=1.0, gt=0, le=100)
    repetition_penalty: float = Field(default=1.0, gt=0, le=100)
    max_new_tokens: int = Field(default=30, ge=1, le=10_000)
    min_new_tokens: int = Field(default=1, ge=0, le=10_000)
    precision: Precision = "auto"
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)


class LlmConfig(Section):
    """The LLM that edits captions. ``transformers:PATH`` runs in process, else ``url`` serves."""

    model: str = Field(description="served model name, or transformers:NAME_OR_PATH")
    url: str | list[str] = Field(
        default="http://localhost:8000/v1",
        min_length=1,
        description="OpenAI-compatible server, or a list of several that serve the same model",
    )
    prompt: str = Field(default="seize", description="name in prompts/ or a YAML file")
    edits: int = Field(
        default=1, ge=1, le=1000, description="edits a caption; several need temperature > 0"
    )
    temperature: float = Field(default=0.0, ge=0, le=100)
    attempts: int = Field(default=3, ge=1, le=100, description="tries for an answer that is empty")
    thinking: bool = Field(
        default=False, description="let the model think first; else it is told not to, if it can be"
    )
    thinking_tokens: int = Field(
        default=2048,
        ge=1,
        le=1_000_000,
        description="room for the thought of a model that thinks, in tokens",
    )
    precision: Precision = "auto"
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)


class ClipConfig(Section):
    """The encoder that maps images and texts into one space: CLIP, or another kind's."""

    model: str = Field(
        description="open_clip architecture, local-dir:FOLDER or hf-hub:NAME; served:NAME for a "
        "multimodal embedder at url; KIND:NAME for other kinds: see docs/encoders.md"
    )
    url: str | list[str] = Field(
        default="http://localhost:8000/v1",
        min_length=1,
        description="vLLM server of a served:NAME, or a list of several that serve the same model",
    )
    pretrained: str | None = Field(default=None, description="open_clip tag or weights file")
    target_pad: float | None = Field(
        default=1.25, ge=1, le=1000, description="TargetPad ratio before resizing; null for none"
    )
    pixels: Literal["corrected", "released"] = Field(
        default="corrected",
        description="corrected: RGB, upright, transparency on white, then padded; "
        "released: the file's own mode is padded, its orientation ignored, transparency black, "
        "as in the published scripts",
    )
    decode: Literal["exact", "draft"] = Field(
        default="exact",
        description="draft: open_clip gets JPEGs decoded at a half, quarter or eighth of their "
        "size where no side falls below what it takes; quicker, and features differ a little",
    )
    long_texts: Literal["cut", "segments"] = Field(
        default="cut",
        description="texts longer than open_clip's context: cut, or the mean of their parts",
    )
    precision: Precision = "auto"
    image_instruction: str | None = Field(
        default=None, description="what a joint embedder is told of an image; its own by default"
    )
    text_instruction: str | None = Field(
        default=None, description="the same of a text; an image with a text has a prompt"
    )
    longest_side: int = Field(
        default=1344, ge=16, le=65_536, description="pixels that images are sent to a server with"
    )


class VerifierConfig(Section):
    """A vision-language model looks at the best candidates (as in WISER, arXiv 2602.23029)."""

    model: str = Field(
        default="Qwen/Qwen2.5-VL-7B-Instruct",
        description="served model name, reranker:NAME or transformers:NAME_OR_PATH",
    )
    url: str | list[str] = Field(
        default="http://localhost:8000/v1",
        min_length=1,
        description="OpenAI-compatible server, or a list of several that serve the same model",
    )
    prompt: str = Field(default="caption", description="name in prompts/verify or a YAML file")
    endpoint: Literal["rerank", "score"] = Field(default="rerank", description="of a reranker")
    candidates: int = Field(
        default=20, ge=1, le=1_000_000, description="best images a query that are verified"
    )
    captions: int = Field(
        default=1, ge=1, le=1000, description="edited captions asked about, the most typical first"
    )
    fusion: Kind = Field(
        default="confidence",
        description="confidence: accepted images first, rejected last; average: with the score",
    )
    accept: float = Field(
        default=0.7, ge=0, le=1, description="from this probability on a candidate moves to the top"
    )
    reject: float = Field(
        default=0.3, ge=0, le=1, description="below this probability a candidate moves to the end"
    )
    weight: float = Field(
        default=0.25, ge=0, le=1, description="the probability's weight in an average"
    )
    early_stop: bool = Field(
        default=True, description="stop a query once its first `settled` images cannot change"
    )
    settled: int = Field(default=10, ge=1, le=1_000_000)
    longest_side: int = Field(
        default=512, ge=16, le=65_536, description="pixels that images are scaled to"
    )
    precision: Precision = "auto"

    @model_validator(mode="after")
    def _ordered(self) -> "VerifierConfig":
        if self.reject > self.accept:
            raise ValueError("reject must not be above accept")
        return self


def weights_family(clip: ClipConfig) -> str:
    """Return whose weights a CLIP model has, e.g. ``openai`` or ``laion2b``."""
    if clip.pretrained is None or os.path.exists(clip.pretrained):
        return Path(clip.model.rpartition(":")[2]).name
    return clip.pretrained.partition("_")[0]

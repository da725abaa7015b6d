"""The sections of a configuration, with what each field may be and is by default."""

import os
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipeline.config.names import CLIP, encoder_of, split
from pipeline.errors import ConfigError, nearest
from pipeline.yamls import first_problem

OWN_IMAGES = "folder"
"""The name under which weights are set for a folder of one's own images."""

LARGEST_SEED = 2**32 - 1

MAX_PIXELS = 2 * (1 << 30) // 4 // 3
"""Larger images are refused before they are decoded (537 MB as RGB): Pillow's own limit, too."""

Kind = Literal["confidence", "average"]

Precision = Literal["auto", "float32", "float16", "bfloat16"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class CaptionerConfig(_Section):
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


class LlmConfig(_Section):
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


class ClipConfig(_Section):
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


class IndexConfig(_Section):
    """Where the search takes its candidates from. An approximate index may change the ranking."""

    kind: str = Field(
        default="scan", description="scan, flat, faiss-hnsw, faiss-ivf or milvus: see docs/scale.md"
    )
    links: int = Field(default=32, ge=2, description="HNSW: neighbours of an image")
    construction: int = Field(default=100, ge=1, description="HNSW: images tried to link one")
    breadth: int = Field(default=256, ge=1, description="HNSW: images tried a query")
    lists: int | None = Field(default=None, ge=1, description="IVF: clusters; 4·√images by default")
    probes: int = Field(default=64, ge=1, description="IVF: clusters tried a query")


class SearchConfig(_Section):
    """How gallery images are scored.

    Whatever else stands here are sections with the weights of methods, as the methods declare them
    (``retrieval/methods``): ``search.increment.positive`` for every dataset,
    ``search.increment.circo.positive`` for one. ``retrieval.methods.check`` checks them.
    """

    model_config = ConfigDict(extra="allow")

    method: str = "seize"
    normalise_texts: bool = Field(
        default=False, description="average normalised text embeddings (SEIZE averages raw ones)"
    )
    exclude_reference: bool | dict[str, bool] = Field(
        default=True,
        description="never retrieve the reference image; by dataset where papers differ, as in "
        "{circo: false, cirr: true}",
    )
    top_k: int = Field(default=50, ge=1, le=1_000_000)
    index: IndexConfig = IndexConfig()

    def excludes(self, dataset: str) -> bool:
        """Return whether a dataset's reference images are never retrieved, as by default."""
        chosen = self.exclude_reference
        return chosen.get(dataset, True) if isinstance(chosen, dict) else chosen

    @property
    def sections(self) -> dict[str, Any]:
        """The sections of weights that are set, as they were given."""
        return dict(self.model_extra or {})

    def section(self, name: str) -> dict[str, Any]:
        """Return what is set in a section, {} for nothing; ConfigError where it is no section."""
        given = self.sections.get(name)
        if given is not None and not isinstance(given, dict):
            raise ConfigError(f"search.{name} must hold weights as `name: value`.")
        return dict(given or {})


class VerifierConfig(_Section):
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


class DatasetConfig(_Section):
    """Choices about a benchmark that change its numbers."""

    gallery: Literal["split", "union"] = Field(
        default="split",
        description="FashionIQ's galleries: split files, or union of references and targets",
    )
    caption_separator: str = Field(
        default=" and ", description="joins FashionIQ's two relative captions"
    )
    shared_concept: bool = Field(
        default=False, description="tell the LLM CIRCO's shared concept (the prompt must use it)"
    )
    both_orders: bool = Field(
        default=False, description="join FashionIQ's two relative captions in both orders, averaged"
    )


class SynthesizeConfig(_Section):
    """Triplets that an LLM writes about images alone."""

    model: str | None = Field(
        default=None, description="the LLM that writes, named as llm.model, which it is by default"
    )
    prompt: str = Field(
        default="difference", description="name in prompts/synthesize or a YAML file"
    )
    eval_prompt: str = Field(
        default="edit", description="the same for --eval, where pairs would favour image methods"
    )
    neighbours: int = Field(
        default=1, ge=1, le=1000, description="nearest images that each image is paired with"
    )
    copies_above: float = Field(
        default=0.95, ge=-1, le=1, description="cosine above which two images are copies, no pair"
    )
    within_category: bool = Field(
        default=True, description="pair images of one category only, where there are categories"
    )
    edits: int = Field(
        default=1, ge=1, le=1000, description="edits of each image, where captions alone are edited"
    )
    margin: float = Field(
        default=0.0,
        ge=-2,
        le=2,
        description="by how much the target must be above the reference for the edited caption",
    )
    seed: int = Field(
        default=0, ge=0, le=LARGEST_SEED, description="draws the references, where not all are used"
    )


LARGEST_BATCH = 1_000_000
LONGEST_WAIT = 1_000_000.0
"""Seconds."""


class RuntimeConfig(_Section):
    """What changes speed and place but no result."""

    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, mps")
    caption_batch: int = Field(
        default=8, ge=1, le=LARGEST_BATCH, description="images a captioning batch"
    )
    edit_batch: int = Field(
        default=64, ge=1, le=LARGEST_BATCH, description="prompts a batch in process"
    )
    verify_batch: int = Field(
        default=64, ge=1, le=LARGEST_BATCH, description="candidates a batch in process"
    )
    concurrency: int | None = Field(
        default=None,
        ge=1,
        le=65_536,
        description="requests in flight to a server; chosen from it by default",
    )
    timeout: float = Field(
        default=120.0, gt=0, le=LONGEST_WAIT, description="seconds a request may take"
    )
    retries: int = Field(
        default=6, ge=0, le=1000, description="retries of a failed request, backing off"
    )
    give_up_after: float = Field(
        default=600.0,
        gt=0,
        le=LONGEST_WAIT,
        description="seconds a request may take with all its retries",
    )
    api_key_variable: str = Field(
        default="OPENAI_API_KEY", description="environment variable that holds the server's key"
    )
    embed_batch: int = Field(
        default=256, ge=1, le=LARGEST_BATCH, description="images or texts a CLIP batch"
    )
    shard: int = Field(default=1024, ge=1, le=100_000_000, description="features written at a time")
    workers: int | None = Field(
        default=None,
        ge=0,
        le=1024,
        description="processes that decode images; one a core by default",
    )
    milvus_url: str | None = Field(
        default=None, description="a Milvus server or cluster; a file in the cache by default"
    )
    milvus_token_variable: str = Field(
        default="MILVUS_TOKEN", description="environment variable that holds its token"
    )
    strict: bool = Field(default=False, description="a broken image ends the run")
    max_pixels: int = Field(
        default=MAX_PIXELS, ge=1, le=MAX_PIXELS, description="images of more pixels are refused"
    )
    follow_links: bool = Field(
        default=False, description="read images that are links out of the dataset's image folder"
    )
    allow_pickle: bool = Field(
        default=False, description="load CLIP weights that can run code: only from whom you trust"
    )


class Config(_Section):
    """Everything one run needs besides the dataset, split and folders.

    >>> import seize
    >>> config: seize.Config = seize.configure("demo")
    >>> config.search.method, config.captioner.samples
    ('seize', 15)
    """

    description: str = ""
    needs: str = ""
    note: str = Field(
        default="", description="said with what the models find among images of one's own"
    )
    captioner: CaptionerConfig
    llm: LlmConfig
    clip: ClipConfig
    encoders: dict[str, ClipConfig] = Field(
        default={}, description="further encoders by name: METHOD@NAME ranks by one of them"
    )
    search: SearchConfig = SearchConfig()
    verifier: VerifierConfig = VerifierConfig()
    dataset: DatasetConfig = DatasetConfig()
    synthesize: SynthesizeConfig = SynthesizeConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    @field_validator("encoders")
    @classmethod
    def _named(cls, encoders: dict[str, ClipConfig]) -> dict[str, ClipConfig]:
        for name in encoders:
            if name == CLIP or not re.fullmatch(r"\w[\w.-]*", name):
                raise ValueError(f"{name!r} cannot name an encoder: letters, digits, - . _ can")
        return encoders

    @property
    def encoder(self) -> ClipConfig:
        """The encoder of the method in use: the one that it names, else ``clip``.

        Several methods have one where it is the same of all; else this is ``clip``, and each is to
        be asked alone. Raises ConfigError for a name that no encoder has.
        """
        return self.named_encoder(self._encoder_name)

    @property
    def _encoder_name(self) -> str:
        names = {encoder_of(name) for name in split(self.search.method)}
        return names.pop() if len(names) == 1 else CLIP

    def named_encoder(self, name: str) -> ClipConfig:
        """Return an encoder by its name; raises ConfigError with the nearest one."""
        if name == CLIP:
            return self.clip
        if name not in self.encoders:
            raise ConfigError(
                f"There is no encoder {name!r}.{nearest(name, [CLIP, *self.encoders])} Name one "
                f"with --set encoders.{name}.model=KIND:NAME, or under encoders: in a file."
            )
        return self.encoders[name]

    def with_encoder(self, encoder: ClipConfig) -> "Config":
        """Return a copy in which the method in use has another encoder."""
        name = self._encoder_name
        if name == CLIP:
            return self.model_copy(update={"clip": encoder})
        return self.model_copy(update={"encoders": self.encoders | {name: encoder}})

    def with_search(self, **changes: Any) -> "Config":
        """Return a copy whose ``search`` section has ``changes``; None changes nothing.

        Raises ConfigError naming the field that is wrong.
        """
        search = self.search.model_dump()
        search |= {name: value for name, value in changes.items() if value is not None}
        try:
            return self.model_copy(update={"search": SearchConfig.model_validate(search)})
        except ValidationError as error:
            raise ConfigError(f"search.{first_problem(error)}") from None

    def with_section(self, name: str, weights: dict[str, Any]) -> "Config":
        """Return a copy whose section ``search.NAME`` of weights is ``weights``."""
        return self.with_search(**{name: weights})


def weights_family(clip: ClipConfig) -> str:
    """Return whose weights a CLIP model has, e.g. ``openai`` or ``laion2b``."""
    if clip.pretrained is None or os.path.exists(clip.pretrained):
        return Path(clip.model.rpartition(":")[2]).name
    return clip.pretrained.partition("_")[0]

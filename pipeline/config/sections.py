"""The sections of a configuration about data, search and the machine."""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from pipeline.config.base import LARGEST_SEED, Section
from pipeline.errors import ConfigError

MAX_PIXELS = 2 * (1 << 30) // 4 // 3
"""Larger images are refused before they are decoded (537 MB as RGB): Pillow's own limit, too."""


class IndexConfig(Section):
    """Where the search takes its candidates from. An approximate index may change the ranking."""

    kind: str = Field(
        default="scan",
        description="scan, flat, clusters, faiss-hnsw, faiss-ivf or milvus: see docs/scale.md",
    )
    links: int = Field(default=32, ge=2, description="HNSW: neighbours of an image")
    construction: int = Field(default=100, ge=1, description="HNSW: images tried to link one")
    breadth: int = Field(default=256, ge=1, description="HNSW: images tried a query")
    lists: int | None = Field(
        default=None, ge=1, description="IVF and clusters: how many; 4·√images by default"
    )
    probes: int = Field(default=64, ge=1, description="IVF: clusters tried a query")
    shards: int = Field(default=1, ge=1, description="parts of the gallery with an index each")

    @property
    def content(self) -> dict[str, Any]:
        """What makes an approximate index give another ranking, as fingerprints have it."""
        return self.model_dump(exclude={"shards"} if self.shards == 1 else set())


class SearchConfig(Section):
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


class DatasetConfig(Section):
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


class SynthesizeConfig(Section):
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


class OwnConfig(Section):
    """How what a folder of one's own images is asked for is shown; no benchmark reads it."""

    group_at: float | None = Field(
        default=0.9995,
        gt=0,
        le=1,
        description="cosine from which two images' features are near-duplicates, shown as one "
        "result; null: never",
    )


class RuntimeConfig(Section):
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
        description="requests in flight to a server at most; found out by asking by default",
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
        description="threads or processes that decode images; one a core by default",
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

"""The demo's joint embedder behind a real vLLM's pooling runner, and in process."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from pipeline.config import ClipConfig, RuntimeConfig
from pipeline.errors import ModelError
from pipeline.images.files import open_image
from pipeline.models import encoders
from pipeline.models.encoders.served import ServedEncoder
from pipeline.models.prompts import embed as prompts
from pipeline.models.serving import vllm
from pipeline.run import Run
from pipeline.stages import search
from pipeline.stages.everything import run_stages
from tests.conftest import PROJECT
from tests.vllm.conftest import ARGUMENTS, MODEL, binary

MakeRun = Callable[..., Run]
EMBEDDER = str(PROJECT / "data" / "models" / "embedder")


@pytest.fixture(scope="module")
def embed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server of the demo's joint embedder."""
    log = tmp_path_factory.mktemp("vllm-embed") / "vllm.log"
    pooling = ["--runner", "pooling", "--convert", "embed", "--model-impl", "transformers"]
    with vllm.serve(EMBEDDER, log, binary(), [*ARGUMENTS, *pooling]) as url:
        yield url


def test_served_vectors_are_those_of_the_same_model_in_process(
    make_run: MakeRun, embed_server: str
) -> None:
    run, runtime = make_run(), RuntimeConfig()
    queries = run.queries[:12]
    pictures = [open_image(run.dataset.images[query.reference]) for query in queries]
    said = [query.relative_captions[0] for query in queries]
    told = prompts.load("change").instruction
    found = []
    for settings in (
        ClipConfig(model=f"sentence-transformers:{EMBEDDER}", precision="float32"),
        ClipConfig(model=f"served:{EMBEDDER}", url=embed_server),
    ):
        encoder = encoders.load_joint(settings, runtime)
        prepared = [encoder.prepare(picture) for picture in pictures]
        found.append(
            [encoder.images(prepared), encoder.texts(said), encoder.pairs(prepared, said, told)]
        )
    for what, here, there in zip(("images", "texts", "pairs"), *found, strict=True):
        print(f"{what}: largest difference {np.abs(here - there).max():.2e}, least cosine",
              f"{(here * there).sum(axis=1).min():.7f}")  # fmt: skip
        np.testing.assert_allclose(here, there, atol=2e-5)


def test_a_run_by_a_served_embedder_ranks_as_in_process(
    make_run: MakeRun, embed_server: str
) -> None:
    emb = {"encoders__emb__model": f"sentence-transformers:{EMBEDDER}"}
    here = make_run(search__method="joint@emb", **emb)
    emb = {"encoders__emb__model": f"served:{EMBEDDER}", "encoders__emb__url": embed_server}
    there = make_run(search__method="joint@emb", **emb)
    for run in (here, there):
        reports, _ = run_stages(run)
        assert not any(report.failed for report in reports)
    ranked = [[r.images[:5] for r in search.read(run)] for run in (here, there)]
    assert ranked[0] == ranked[1]


def test_a_chat_models_server_is_refused_with_what_to_start(server: str) -> None:
    with pytest.raises(ModelError, match="--runner pooling"):
        ServedEncoder(ClipConfig(model=MODEL, url=server), RuntimeConfig())

"""A reranker behind a server: what is sent, in both forms, and what is made of the scores.

The stub scores really: it decodes the images that it was sent and asks the demo's verifier about
them, so what comes out is right only where text and candidate arrived in their places.
"""

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pipeline import config
from pipeline.config import RuntimeConfig, VerifierConfig
from pipeline.errors import ConfigError, ModelError
from pipeline.images.files import data_url, open_image
from pipeline.models import verifiers
from pipeline.models.prompts import verify as prompts
from pipeline.models.serving.endpoints import tokens_of
from pipeline.models.verifiers import Question
from pipeline.models.verifiers._transformers import LocalVerifier
from pipeline.run import Run
from pipeline.stages import search, verify
from pipeline.stages.everything import run_stages
from tests.stub import Fault, Running, Stub

MakeRun = Callable[..., Run]
PLAIN = Path("prompts/verify/rerank-caption.yaml").resolve()


class Scoring(Stub):
    """Answers ``/v1/rerank`` and ``/v1/score`` as vLLM does."""

    scores: Callable[[dict[str, Any]], float]

    def application(self) -> web.Application:
        app = super().application()
        app.router.add_post("/v1/rerank", self.rerank)
        app.router.add_post("/v1/score", self.score)
        return app

    async def rerank(self, request: web.Request) -> web.StreamResponse:
        def answer(asked: dict[str, Any]) -> web.Response:
            (document,) = asked["documents"]
            found = {"index": 0, "document": {}, "relevance_score": self.scores(asked)}
            assert set(document) == {"content"}
            return web.json_response({"results": [found], "usage": {"total_tokens": 9}})

        return await self.serve(request, lambda asked: text(asked["query"]), answer)

    async def score(self, request: web.Request) -> web.StreamResponse:
        def answer(asked: dict[str, Any]) -> web.Response:
            found = {"index": 0, "object": "score", "score": self.scores(asked)}
            return web.json_response({"data": [found], "usage": {"total_tokens": 9}})

        return await self.serve(request, lambda asked: text(asked["text_1"]), answer)


def text(content: dict[str, Any]) -> str:
    (found,) = [part["text"] for part in content["content"] if part["type"] == "text"]
    return str(found)


def images(content: dict[str, Any]) -> list[bytes]:
    urls = [p["image_url"]["url"] for p in content["content"] if p["type"] == "image_url"]
    return [base64.b64decode(url.partition(",")[2]) for url in urls]


@pytest.fixture
def serve() -> Iterator[Callable[..., Running]]:
    """A function that starts a stub which scores by a function of the request."""
    started: list[Running] = []

    def begin(scores: Callable[[dict[str, Any]], float], **options: Any) -> Running:
        stub = Scoring(model="scorer", **options)
        stub.scores = scores
        started.append(Running(stub))
        return started[-1]

    yield begin
    for server in started:
        server.stop()


def really(folder: Path) -> Callable[[dict[str, Any]], float]:
    """Return a score that the demo's verifier gives: does the document show what the query says?"""
    settings = config.load("demo").verifier
    bare = settings.model_copy(update={"model": settings.model.partition(":")[2]})
    judge, prompt = LocalVerifier(bare, RuntimeConfig()), prompts.load("demo")

    def score(asked: dict[str, Any]) -> float:
        query = asked["query"] if "query" in asked else asked["text_1"]
        (document,) = asked["documents"] if "query" in asked else [asked["text_2"]]
        (content,) = images(document)
        file = folder / "sent.png"
        file.write_bytes(content)
        (verdict,) = judge.judge(prompt, [Question(0, (file,), text(query), "")])
        assert verdict.probability is not None
        return verdict.probability

    return score


def settings_at(server: Running, **changes: Any) -> dict[str, Any]:
    return {
        "verifier__model": "reranker:scorer",
        "verifier__url": server.url,
        "verifier__prompt": str(PLAIN),
        "verifier__candidates": 5,
        "captioner__samples": 3,
        "runtime__retries": 1,
        **{f"verifier__{name}": value for name, value in changes.items()},
    }


@pytest.mark.parametrize("endpoint", ["rerank", "score"])
def test_a_reranker_orders_as_the_model_behind_it_would_in_process(
    make_run: MakeRun, serve: Any, tmp_path: Path, endpoint: str
) -> None:
    server = serve(really(tmp_path))
    at = settings_at(server, endpoint=endpoint)
    served = make_run("cirr", search__method="pool:image,text+verify", **at)
    run_stages(served)
    local = make_run(
        "cirr",
        search__method="pool:image,text+verify",
        captioner__samples=3,
        verifier__candidates=5,
    )
    verify.verify(local)
    for one, other in zip(search.read(served), search.read(local), strict=True):
        assert one.images == other.images
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-4)
    cost = verify.cost_of(served)
    assert cost.calls > 0
    assert cost.tokens == 9 * cost.calls
    asked = len(server.stub.seen)
    (again,) = verify.verify(served)
    assert (again.computed, len(server.stub.seen)) == (0, asked), "every score is kept"


def test_the_query_holds_text_and_reference_and_the_document_the_candidate(
    make_run: MakeRun, serve: Any
) -> None:
    server = serve(lambda asked: 0.5)
    run = make_run(search__method="image+verify", **settings_at(server, prompt="rerank"))
    run.dataset.limit(1)
    run_stages(run)
    (query,), (ranking,) = run.queries, search.read(run.unverified)
    side = run.config.verifier.longest_side

    def sent(image: str) -> bytes:
        return base64.b64decode(data_url(open_image(run.dataset.images[image]), side).split(",")[1])

    shown = []
    for asked in server.stub.seen:
        assert set(asked) == {"model", "query", "documents"}
        assert text(asked["query"]).endswith(f"by the change: {run.relative_captions(query)[0]}")
        assert images(asked["query"]) == [sent(query.reference)]
        (document,) = asked["documents"]
        shown += images(document)
        # Two images are reckoned, not the letters that they are sent in.
        assert 2000 < tokens_of(asked) < 3000
    assert sorted(shown) == sorted(map(sent, ranking.images[:5]))


def test_scores_that_are_no_probabilities_are_one_error_and_no_verdicts(
    make_run: MakeRun, serve: Any
) -> None:
    server = serve(lambda asked: 3.25)
    run = make_run(search__method="image+verify", **settings_at(server))
    with pytest.raises(ModelError, match=r"scores of scorer are no probabilities \(3\.25"):
        run_stages(run)
    assert verify.record_file(run).read() == []


def test_faults_are_counted_and_tried_again_on_request(make_run: MakeRun, serve: Any) -> None:
    faults = iter(
        [Fault(400), Fault(body="{}"), Fault(body='{"results": [{"relevance_score": true}]}')]
    )
    server = serve(lambda asked: 0.75, plan=lambda said, tries: next(faults, None))
    at = settings_at(server, early_stop=False) | {"runtime__concurrency": 1, "runtime__retries": 0}
    run = make_run(search__method="image+verify", **at)
    run.dataset.limit(1)
    reports, _ = run_stages(run)
    (report,) = [one for one in reports if one.stage == "verify"]
    assert (report.computed, len(report.failed)) == (5, 3)
    assert "the answer was no score" in " ".join(report.failed.values())
    (again,) = verify.verify(run, retry_failed=True)
    assert (again.computed, again.failed) == (3, {})


def test_a_reranker_takes_a_query_and_a_verifier_a_question() -> None:
    settings = VerifierConfig(model="reranker:some/model")
    with pytest.raises(ConfigError, match="takes a query, and the prompt 'caption' is a question"):
        verifiers.check(settings)
    verifiers.check(settings.model_copy(update={"prompt": "rerank"}))
    with pytest.raises(ConfigError, match=r"takes a question .* 'rerank' is a query"):
        verifiers.check(VerifierConfig(prompt="rerank"))


def test_a_questions_fingerprint_is_what_it_was_before_there_were_queries() -> None:
    assert "form" not in verifiers.header(VerifierConfig())["prompt"]
    told = verifiers.header(VerifierConfig(model="reranker:m", prompt="rerank", endpoint="score"))
    assert told["prompt"]["form"] == "query"
    assert (told["model"], told["endpoint"]) == ("reranker:m", "score")

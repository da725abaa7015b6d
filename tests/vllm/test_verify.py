"""The verify stage and a vision captioner against a real vLLM server of a vision model."""

from collections.abc import Callable

import pytest

from pipeline.config import CaptionerConfig, VerifierConfig
from pipeline.images.files import open_image
from pipeline.models import verifiers
from pipeline.models.captioners import Failure
from pipeline.models.captioners.served import ServedCaptioner
from pipeline.models.prompts import verify as prompts
from pipeline.models.verifiers import Question
from pipeline.run import Run
from pipeline.stages import search
from pipeline.stages.everything import run_stages
from pipeline.stages.verify import verify
from tests.vllm.conftest import VERIFIER

MakeRun = Callable[..., Run]


@pytest.mark.parametrize("name", ["demo", "demo-change"])
def test_served_probabilities_are_those_of_the_same_model_in_process(
    make_run: MakeRun, vision_server: str, name: str
) -> None:
    run = make_run()
    prompt = prompts.load(name)
    questions = []
    for key, image in enumerate(list(run.dataset.images)[:60]):
        query = run.queries[key % len(run.queries)]
        shown = {"reference": query.reference, "candidate": image}
        files = tuple(run.dataset.images[shown[kind]] for kind in prompt.images)
        relative = query.relative_captions[0]
        questions.append(Question(key, files, "a large red circle", relative))
    found = []
    for model in (f"transformers:{VERIFIER}", VERIFIER):
        config = VerifierConfig(model=model, url=vision_server, prompt=name)
        verifier = verifiers.load(config, run.config.runtime)
        answers = {v.key: v for v in verifier.judge(prompt, questions)}
        assert all(verdict.reason is None for verdict in answers.values())
        found.append([answers[key] for key in range(len(questions))])
    here, there = found
    assert max(abs(a.probability - b.probability) for a, b in zip(*found, strict=True)) < 1e-5
    assert [a.tokens for a in here] == [b.tokens for b in there]
    assert len({round(a.probability, 2) for a in here}) > 5


def test_a_run_is_verified_by_a_server(make_run: MakeRun, vision_server: str) -> None:
    run = make_run(captioner__samples=3, search__method="seize+verify", verifier__candidates=6)
    reports, _metrics = run_stages(run)
    assert [report.stage for report in reports][-2:] == ["verify", "submit"]
    (report,) = verify(run.with_verifier(VERIFIER, vision_server))
    assert report.computed == reports[-2].computed
    assert not report.failed
    served = search.read(run.with_verifier(VERIFIER, vision_server))
    assert [r.images for r in served] == [r.images for r in search.read(run)]


def test_a_served_vision_model_captions(make_run: MakeRun, vision_server: str) -> None:
    run = make_run()
    names = run.references[:4]
    images = [open_image(run.dataset.images[name]) for name in names]
    config = CaptionerConfig(
        model=VERIFIER, url=vision_server, prompt="describe the image", samples=3
    )
    captions = ServedCaptioner(config, run.config.runtime).caption(names, images)
    assert all(not isinstance(texts, Failure) and len(texts) == 3 for texts in captions)
    assert len({text for texts in captions for text in texts}) > 3

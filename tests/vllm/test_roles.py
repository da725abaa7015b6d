"""Edits with roles: vLLM's decoding is held to the JSON schema."""

from collections.abc import Callable

from pipeline.models.prompts.edit import ROLES
from pipeline.retrieval import methods
from pipeline.run import Run
from pipeline.stages import caption, edit
from pipeline.stages.embed import embed
from pipeline.stages.evaluate import evaluate
from pipeline.stages.search import search
from tests.vllm.conftest import MODEL

MakeRun = Callable[..., Run]


def test_answers_follow_the_schema_and_are_searched_by_role(make_run: MakeRun, server: str) -> None:
    run = make_run(captioner__samples=3, llm__prompt="demo-roles").with_llm(MODEL, server)
    caption.caption(run)
    report = edit.edit(run)
    assert not report.failed
    roles = edit.read_roles(run)
    assert all(set(said) == set(ROLES) for said in roles.values())
    assert sum(len(texts) for said in roles.values() for texts in said.values()) > 20
    embed(run)
    names = methods.names()
    search(run.with_method("all"))
    assert {"roles", "seize+roles"} <= set(names)
    assert 0 <= evaluate(run.with_method("roles"))["mAP@5"] <= 100


def test_a_model_that_knows_no_json_is_held_to_the_schema(make_run: MakeRun, server: str) -> None:
    # This prompt is another than the one that the small LLM learnt to answer in JSON.
    run = make_run(captioner__samples=1, llm__prompt="roles", llm__attempts=1)
    served = run.with_llm(MODEL, server)
    caption.caption(served)
    edit.edit(served)
    reasons = [r.get("reason") or "" for r in edit.record_file(served).read()]
    assert not any("no JSON" in reason and "longer" not in reason for reason in reasons)

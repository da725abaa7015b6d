"""Which texts a run's methods are about, and which stages have to make them."""

from collections.abc import Callable

import pytest

from pipeline.errors import ConfigError, MissingStageError
from pipeline.models.prompts.edit import ROLES
from pipeline.retrieval import methods
from pipeline.run import Run
from pipeline.stages import texts

MakeRun = Callable[..., Run]


@pytest.mark.parametrize(
    ("method", "kinds", "stages"),
    [
        ("image", set(), set()),
        ("text", {"relative_captions"}, set()),
        ("image+text", {"relative_captions"}, set()),
        ("seize", {"captions", "edits", "relative_captions"}, {"caption", "edit"}),
        ("ldre", {"captions", "edits", "relative_captions"}, {"caption", "edit"}),
        ("image,text", {"relative_captions"}, set()),
        ("image,seize", {"captions", "edits", "relative_captions"}, {"caption", "edit"}),
    ],
)
def test_a_stage_runs_where_a_method_reads_what_it_makes(
    make_run: MakeRun, method: str, kinds: set[str], stages: set[str]
) -> None:
    run = make_run(search__method=method)
    assert texts.reads(run) == kinds
    assert texts.stages(run) == stages


def test_every_kind_that_a_clue_reads_is_known() -> None:
    for name in methods.names():
        assert methods.reads(name) <= texts.kinds().keys()


def test_a_verified_ranking_needs_edits_where_the_verifier_is_asked_about_them(
    make_run: MakeRun,
) -> None:
    by_edits = make_run(search__method="image+verify", verifier__prompt="caption")
    assert texts.verified_by_edits(by_edits)
    assert texts.stages(by_edits) == {"caption", "edit"}
    by_change = make_run(search__method="image+verify", verifier__prompt="change")
    assert not texts.verified_by_edits(by_change)
    assert texts.stages(by_change) == set()


def test_methods_with_roles_need_a_prompt_that_asks_for_them(make_run: MakeRun) -> None:
    without = make_run(search__method="all", llm__prompt="seize")
    assert texts.lacking(without).keys() == set(ROLES)
    assert not any(methods.reads(name) & set(ROLES) for name in texts.selection(without))
    named = next(name for name in methods.names() if methods.reads(name) & set(ROLES))
    with pytest.raises(ConfigError, match=f"{named} needs edits with roles"):
        texts.selection(make_run(search__method=named, llm__prompt="seize"))
    assert named in texts.selection(make_run(search__method="all", llm__prompt="roles"))


def test_only_what_is_read_is_embedded(make_run: MakeRun) -> None:
    run = make_run(search__method="text")
    wanted = [text for query in run.queries for text in run.relative_captions(query)]
    assert texts.embedded(run) == list(dict.fromkeys(wanted))
    assert texts.embedded(make_run(search__method="image")) == []
    with pytest.raises(MissingStageError):
        texts.embedded(make_run(search__method="seize"))


def test_a_rankings_header_tells_what_made_its_texts_and_no_more(make_run: MakeRun) -> None:
    run, other = make_run(), make_run(llm__prompt="cirevl")
    assert texts.headers(run, {"relative_captions"}) == {}
    assert texts.headers(run, {"captions"}) == texts.headers(other, {"captions"})
    assert texts.headers(run, {"edits"}) != texts.headers(other, {"edits"})

"""Clues are made from what they declare, once; methods get what they declare and nothing else."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.retrieval import methods
from pipeline.retrieval.clues import CLUES, Clue, Clues, Texts
from pipeline.retrieval.clues.base import closure, find
from pipeline.retrieval.methods.base import METHODS
from pipeline.retrieval.ranking import UnitGallery, top_images
from pipeline.retrieval.scoring import Ends, normalise

WIDTH = 4
OURS = [name for name, clue in CLUES.items() if not (clue.by_model or clue.settings)]
"""Clues that are made from features alone, without a model, a trained head or an LLM's plan."""
METHODS_OF_OURS = [
    name
    for name, chosen in METHODS.items()
    if chosen.lists is None and methods.clues_of(name).keys() <= set(OURS)
]


class Queries:
    """Two queries, the second without edits, that note which texts they were asked for."""

    count = 2
    normalise_texts = False

    def __init__(self) -> None:
        self.asked: set[str] = set()
        self.embedded = 0
        images = torch.randn(9, WIDTH, generator=torch.Generator().manual_seed(0))
        self.gallery = UnitGallery(normalise(images))

    def texts(self, kind: str) -> Texts:
        self.asked.add(kind)
        first, second = [f"{kind} 0", f"{kind} 1"], [f"{kind} 2"]
        return [first, [None, None] if kind == "edits" else second * 2]

    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        self.embedded += 1
        rows = [torch.randn(WIDTH, generator=_seeded(text)) for text in texts]
        return torch.stack(rows) if rows else torch.empty(0, WIDTH)

    def references(self) -> torch.Tensor:
        return torch.randn(2, WIDTH, generator=_seeded("references"))

    def drops(self, differences: list[torch.Tensor], k: int) -> list[torch.Tensor]:
        found = (top_images(Ends(rows, rows), self.gallery, k)[0] for rows in differences)
        return [best.clamp(min=0) for best in found]

    def computed(self, clue: Clue, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        raise AssertionError(f"{clue.name} is not by a model")


def _seeded(text: str) -> torch.Generator:
    return torch.Generator().manual_seed(int.from_bytes(text.encode()[-8:], "little") >> 1)


@pytest.mark.parametrize("name", OURS)
def test_a_clue_reads_no_texts_but_those_it_declares(name: str) -> None:
    source = Queries()
    clues = Clues(source)
    for needed in find(name).needs:
        clues.vectors(needed)
    source.asked.clear()
    assert len(clues.vectors(name)) == source.count
    assert source.asked <= set(find(name).reads)


@pytest.mark.parametrize("name", METHODS_OF_OURS)
def test_a_method_gets_the_clues_it_declares_and_uses_each(name: str) -> None:
    chosen = METHODS[name]
    weights = tuple(kind() for kind in chosen.sections)
    methods.scored(chosen, Clues(Queries()), weights)
    for clue in chosen.needs:
        fewer = replace(chosen, needs=tuple(one for one in chosen.needs if one != clue))
        with pytest.raises(ConfigError, match=f"'{clue}' is used but not declared in `needs`"):
            methods.scored(fewer, Clues(Queries()), weights)


def test_a_clue_may_ask_for_no_clue_that_it_does_not_declare(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    greedy = Clue("greedy", lambda clues: clues.vectors("content"))
    monkeypatch.setitem(CLUES, "greedy", greedy)
    with pytest.raises(ConfigError, match="'content' is used but not declared"):
        Clues(Queries()).vectors("greedy")
    monkeypatch.setitem(CLUES, "greedy", replace(greedy, needs=("content",)))
    assert Clues(Queries()).vectors("greedy").shape == (2, WIDTH)


def test_what_was_made_is_kept_and_shared_with_those_who_see_less() -> None:
    source = Queries()
    clues = Clues(source)
    first = clues.vectors("content")
    before = source.embedded
    assert clues.restricted(["content"]).vectors("content") is first
    assert source.embedded == before


def test_nothing_is_made_that_no_method_asks_for() -> None:
    source = Queries()
    methods.scored(METHODS["image"], Clues(source), ())
    assert source.asked == set()
    assert source.embedded == 0


def test_the_closure_has_what_a_clue_is_made_from_before_it() -> None:
    assert list(closure(["differences"])) == ["edits", "differences"]
    assert list(closure(["edits", "differences", "edits"])) == ["edits", "differences"]


def test_an_unknown_clue_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"There is no clue 'contents'\..*content"):
        Clues(Queries()).vectors("contents")


def test_fewer_drops_are_part_of_more() -> None:
    clues = Clues(Queries())
    five = clues.largest_drops(5)
    three = Clues(Queries()).largest_drops(3)
    assert [rows.shape for rows in five] == [(2, 5), (0, 5)]
    for more, fewer, again in zip(five, three, clues.largest_drops(3), strict=True):
        torch.testing.assert_close(more[:, :3], fewer)
        torch.testing.assert_close(again, fewer)

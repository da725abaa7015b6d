"""Long texts in parts: nothing lost, every part fits, sentences kept whole where they can be."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.segments import segments

WORDS = st.text("abc", min_size=1, max_size=6)
TEXTS = st.lists(st.tuples(WORDS, st.sampled_from([" ", ". ", ", ", "\n", "; "])), min_size=1)


@given(TEXTS, st.integers(1, 30))
def test_parts_hold_every_word_in_order_and_fit(words: list[tuple[str, str]], longest: int) -> None:
    text = "".join(map("".join, words))

    def fits(part: str) -> bool:
        return len(part.split()) <= longest

    parts = segments(text, fits)
    assert " ".join(parts).split() == text.split()
    assert all(fits(part) for part in parts)
    if fits(text):
        assert parts == [text]
    neighbours = itertools.pairwise(parts)
    assert len(parts) == 1 or any(not fits(f"{one} {other}") for one, other in neighbours)


def test_sentences_stay_whole_and_points_of_a_list_begin_parts() -> None:
    def fits(part: str) -> bool:
        return len(part.split()) <= 6

    text = "1. Make the dress red. 2. Give it long sleeves. 3. Show a dark background, please, now"
    assert segments(text, fits) == [
        "1. Make the dress red.",
        "2. Give it long sleeves.",
        "3. Show a dark background, please,",
        "now",
    ]


def test_a_word_that_does_not_fit_stays() -> None:
    assert segments("aaaaaaaa", lambda part: len(part) < 3) == ["aaaaaaaa"]
    assert segments("", lambda part: False) == [""]

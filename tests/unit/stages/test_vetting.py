"""The filters of synthesized triplets: each takes what it says, and counts it."""

from collections import Counter

import pytest

from pipeline.datasets.triplets import Triplet
from pipeline.stages import vetting


def triplet(text: str, source: str = "a dog", target: str = "a cat", image: str = "b") -> Triplet:
    return Triplet(
        reference="a", text=text, target=image, source_caption=source, target_caption=target
    )


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("replace the word dog in the sentence", True),
        ("Rephrase it", True),
        ("use the past tense", True),
        ("has an intense look", False),
        ("the sign has the text STOP", False),
        ("shows a person who is sentenced", False),
        ("is captioned in red", False),
    ],
)
def test_edits_of_the_sentence_are_told_from_edits_of_the_picture(text: str, taken: bool) -> None:
    assert vetting.about_text(triplet(text)) == taken


@pytest.mark.parametrize(
    ("source", "target", "same"),
    [
        ("a dog on grass", "There is a dog on grass.", True),
        ("A dog", "the dog", True),
        ("a dog left of a cat", "a cat left of a dog", False),
        ("two dogs", "a dog", False),
        ("a dog on grass", "a dog in grass", False),
    ],
)
def test_other_words_for_the_same_picture_are_known(source: str, target: str, same: bool) -> None:
    assert vetting.same_picture(triplet("x", source, target)) == same


def test_each_filter_counts_what_it_takes_and_the_rest_is_kept_in_order() -> None:
    good, other = triplet("is a cat"), triplet("is a bird", target="a bird", image="c")
    found = [
        good,
        triplet("Is a cat"),
        triplet("shorten the caption"),
        triplet("x", target="the dog"),
        triplet("is far", image="z"),
        triplet("is far", image="z"),
        other,
    ]
    kept, taken = vetting.vet(found, lambda one: one.target != "z")
    assert kept == [good, other]
    assert taken == Counter(
        {vetting.DUPLICATE: 1, vetting.ABOUT: 1, vetting.SAME: 1, vetting.ENCODER: 2}
    )

"""What a text's entities are."""

from pipeline.models.composers.phrases import MOST, entities


def test_entities_are_runs_of_words_that_say_something():
    assert entities("has a red star and no circles") == ["red star", "circles"]
    assert entities("is on a beach", "with Two Dogs on a beach") == ["beach", "two dogs"]
    assert entities("the") == []
    assert len(entities(" and ".join(f"thing{n}" for n in range(40)))) == MOST

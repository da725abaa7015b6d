"""The demo's right answers: a difference holds, both ways, and says only what can be seen."""

import random

from pipeline.demo import differences, synthesizer, world
from pipeline.demo.differences import difference
from pipeline.models.prompts import synthesize as prompts

CHANGES = "put|remove|add|replace|make|change|has|shows|is"


def test_a_single_change_of_full_scenes_is_told_in_the_words_of_an_edit() -> None:
    rng = random.Random(0)
    told = set()
    for _ in range(400):
        scene = world.random_scene(rng)
        other = world.random_edit(scene, rng).apply(scene).canonical()
        text, back = difference(scene, other), difference(other, scene)
        assert text
        assert back
        assert text.split()[0] in CHANGES.split("|")
        told |= set(text.split())
    assert told <= {*world.vocabulary(), *(f"{word}," for word in world.vocabulary())}


def test_what_only_one_description_tells_is_no_difference() -> None:
    before, after = world.parse("two red stars"), world.parse("two stars on a dark background")
    assert before is not None
    assert after is not None
    assert difference(before, after) == ""
    assert difference(before, before) == ""


def test_examples_are_answered_as_the_prompts_ask() -> None:
    rng = random.Random(0)
    for name in synthesizer.SHARES:
        prompt = prompts.load(name)
        for _ in range(50):
            given, answer = synthesizer.example(name, rng)
            assert set(given) <= prompt.task.variables
            fields, reason = prompt.read(synthesizer.spaced(answer))
            assert (fields == answer) if all(answer.values()) else (reason is not None)


def test_a_long_text_tells_more_than_a_short_one() -> None:
    rng = random.Random(0)
    pairs = [synthesizer.pair(rng) for _ in range(100)]
    lengths = [(len(differences.at_length(*p).split()), len(difference(*p).split())) for p in pairs]
    assert sum(long > short for long, short in lengths) > 90

"""What the demo's LLM for edits together is taught: the prompt's own answers, in words it knows."""

import random

from pipeline.demo import together
from pipeline.models.prompts import edit as prompts


def test_examples_are_answered_as_the_prompt_asks_in_words_that_the_llm_knows() -> None:
    rng, prompt, words = random.Random(0), prompts.load(together.PROMPT), together.words()
    lengths = set()
    for _ in range(100):
        one = together.example(rng, together.MOST)
        assert len(set(one.captions)) == len(one.captions) == len(one.edits)
        answer = prompts.as_json(one.edits)
        assert prompt.edits(answer, len(one.captions)) == one.edits
        assert prompt.edits(words.decode(words.encode(answer)), len(one.captions)) == one.edits
        asked = words.apply_chat_template(
            prompt.messages_of(one.captions, one.relative_caption), tokenize=False
        )
        ids = words.encode(f"{asked} {answer}")
        assert words.unk_token_id not in ids
        assert len(ids) < together.ROOM
        lengths.add(len(one.captions))
    assert max(lengths) > 10

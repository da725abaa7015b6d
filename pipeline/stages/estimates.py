"""How much an LLM will read, told before captions exist and without its tokenizer."""

from collections.abc import Sequence

from pipeline.models.prompts.edit import Prompt

CHARACTERS_A_TOKEN = 4
"""Of English text, by the usual rule of thumb."""
CAPTION_CHARACTERS = 50
"""Taken for a caption that does not exist yet; the demo's and COCO's are about that long."""
BESIDE = 25
"""Bytes of a record beside its texts, for each text."""
SAMPLE = 200
"""Prompts that are rendered to estimate the length of all."""


def tokens(
    prompt: Prompt, groups: Sequence[Sequence[tuple[str, str, str, int]]], stand_in: bool = False
) -> float:
    """Return about how many tokens all prompts have, of one or several pairs of the edit stage.

    Captions that ``stand_in`` for some that do not exist yet count as of the usual length.
    """
    sample = groups[:: len(groups) // SAMPLE + 1]
    lengths = []
    for group in sample:
        captions = ["x" * CAPTION_CHARACTERS if stand_in else pair[0] for pair in group]
        messages = prompt.messages_of(captions, *group[0][1:3])
        lengths.append(sum(len(message["content"]) for message in messages))
    return sum(lengths) / max(len(lengths), 1) * len(groups) / CHARACTERS_A_TOKEN

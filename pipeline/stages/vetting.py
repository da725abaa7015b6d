"""Which triplets are kept: what the filters of the synthesize stage take, each counted.

A filter that a user can trust is one that says what it took and why; none repairs anything.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from pipeline.datasets.triplets import Triplet

ABOUT_TEXT = re.compile(
    r"\b(sentence|caption|description|wording|phras(?:e|ing)|paragraph|grammar|verb|noun|adjective"
    r"|tense|spelling|typo|punctuation|(?:para|re)phrase|rewrite|reword)s?\b",
    re.IGNORECASE,
)
"""What a change of the sentence speaks of, and a change of the picture does not."""
_EMPTY_WORDS = """
    a an the is are was were that which there with of some
    """
EMPTY_WORDS = frozenset(_EMPTY_WORDS.split())
"""Words that make another sentence, but no other picture."""

ABOUT = "speaks of the sentence, not of the picture"
SAME = "describes the same picture in other words"
DUPLICATE = "is there already"
ENCODER = "the encoder places the target below the reference"

Closer = Callable[[Triplet], bool]
"""Whether the encoder places a triplet's target above its reference, for the edited caption."""


def vet(found: Iterable[Triplet], closer: Closer) -> tuple[list[Triplet], Counter[str]]:
    """Return the triplets that are kept, and how many each filter took, in order."""
    kept: list[Triplet] = []
    taken: Counter[str] = Counter()
    seen: set[tuple[str | None, ...]] = set()
    for one in found:
        key = (one.reference, one.target or one.target_caption, one.text.casefold())
        if about_text(one):
            taken[ABOUT] += 1
        elif same_picture(one):
            taken[SAME] += 1
        elif key in seen:
            taken[DUPLICATE] += 1
        elif not closer(one):
            taken[ENCODER] += 1
        else:
            kept.append(one)
            seen.add(key)
    return kept, taken


def about_text(one: Triplet) -> bool:
    """Whether a text asks for another sentence instead of another picture."""
    return any(ABOUT_TEXT.search(text) for text in (one.text, one.text_reverse or ""))


def same_picture(one: Triplet) -> bool:
    """Whether both captions say the same but for words that change no picture."""
    if one.source_caption is None or one.target_caption is None:
        return False
    return _content(one.source_caption) == _content(one.target_caption)


def _content(text: str) -> Sequence[str]:
    words = re.findall(r"\w+", text.casefold())
    return [word for word in words if word not in EMPTY_WORDS]

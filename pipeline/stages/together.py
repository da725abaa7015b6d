"""All captions of a query edited by one call: which are asked for together, and who said what."""

import json
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from pipeline.models.llms import Answer
from pipeline.models.prompts.edit import Prompt

if TYPE_CHECKING:
    from pipeline.stages.editor import Pair

Group = tuple["Pair", ...]
"""Pairs that differ in their caption alone."""


class Asked(NamedTuple):
    """One call: all pairs of a group, and those whose edits are kept."""

    group: Group
    kept: Group


def groups(pairs: Iterable["Pair"]) -> list[Group]:
    """Return one query's pairs, or those of one change, by what they have in common."""
    found: dict[tuple[str, ...], list[Pair]] = {}
    for pair in dict.fromkeys(pairs):
        found.setdefault((*map(str, pair[1:]),), []).append(pair)
    return [tuple(group) for group in found.values()]


def calls(all_groups: Sequence[Group], todo: Container["Pair"]) -> list[Asked]:
    """Return the calls that give the edits ``todo``.

    A group is asked for as a whole, whatever of it is there already, and a pair of several groups
    is kept of the first one: so a stopped run goes on as if it had not been stopped.
    """
    seen: set[Pair] = set()
    found = []
    for group in all_groups:
        kept = tuple(pair for pair in group if pair not in seen and pair in todo)
        seen.update(group)
        if kept:
            found.append(Asked(group, kept))
    return found


def split(prompt: Prompt, asked: Asked, answer: Answer) -> Iterator[tuple["Pair", Answer]]:
    """Yield each pair that is kept with its part of an answer, as if it had been asked for alone.

    Where the answer has not as many edits as captions, or is the captions again, each pair's
    part is one that nothing can be read from.
    """
    captions = [pair.caption for pair in asked.group]
    edits = None if answer.text is None else prompt.edits(answer.text, len(captions))
    if len(captions) > 1 and edits == [caption.strip() for caption in captions]:
        edits = None
    said = dict(zip(asked.group, edits or (), strict=False))
    for pair in asked.kept:
        if edits is None:
            text = answer.text if len(captions) == 1 or answer.text is None else ""
            yield pair, Answer(answer.key, text, answer.reason, answer.truncated)
        else:
            yield pair, Answer(answer.key, json.dumps({"1": said[pair]}))

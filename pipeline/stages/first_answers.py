"""Stops a stage early whose first answers show that the model does something else."""

from collections.abc import Container, Hashable
from typing import Generic, NamedTuple, TypeVar

from pipeline.errors import ModelError

LEAST = 20
"""Answers that are looked at before any judgement."""
LEAST_CHANGES = 10
"""Distinct relative captions that are looked at before answers are called alike."""
MOST = 0.75
"""The share of bad, or of equal, answers from which on the stage stops."""
LONGEST_LOOK = 2000
"""Answers after which nothing is looked at any more, however few relative captions they are of."""
SHOWN = 3

Key = TypeVar("Key", bound=Hashable)


class _First(NamedTuple, Generic[Key]):
    key: Key
    relative_caption: str
    text: str | None
    reason: str | None
    raw: str


class SuspiciousAnswers(ModelError, Generic[Key]):
    """Most first answers are bad or alike; ``alike`` are those that are no edits though good."""

    def __init__(self, message: str, alike: tuple[Key, ...] = ()) -> None:
        super().__init__(message)
        self.alike = alike


class FirstAnswers(Generic[Key]):
    """Looks at the first answers of a stage; small runs have too few to be judged.

    Answers are alike where relative captions that differ got the same edited caption. Answers to
    ``ignored`` say nothing: they failed before, among others that did not.
    """

    def __init__(self, model: str, ignored: Container[Key] = ()) -> None:
        self.model = model
        self._ignored = ignored
        self._seen: list[_First[Key]] = []
        self._changes: set[str] = set()
        self._judged = False

    def add(
        self, key: Key, relative_caption: str, text: str | None, reason: str | None, raw: str | None
    ) -> None:
        """Take an answer, good or bad; raises SuspiciousAnswers once most are bad or alike."""
        if self._judged or key in self._ignored:
            return
        self._seen.append(_First(key, relative_caption, text, reason, raw or ""))
        if len(self._seen) == LEAST:
            self._stop_if_bad()
        self._changes.add(relative_caption)
        if len(self._seen) >= LEAST and len(self._changes) >= LEAST_CHANGES:
            self._judged = True
            self._stop_if_bad()
            self._stop_if_alike(len(self._changes))
        self._judged |= len(self._seen) == LONGEST_LOOK

    def _stop_if_bad(self) -> None:
        bad = [one for one in self._seen if one.reason]
        if len(bad) < MOST * len(self._seen):
            return
        raise SuspiciousAnswers(
            f"{len(bad)} of the first {len(self._seen)} answers of {self.model} are no edits: "
            + "; ".join(f"{_short(one.raw)} ({one.reason})" for one in bad[:SHOWN])
            + self._advice("")
        )

    def _stop_if_alike(self, changes: int) -> None:
        by_text: dict[str, list[_First[Key]]] = {}
        for one in self._seen:
            if one.text is not None:
                by_text.setdefault(one.text.casefold(), []).append(one)
        alike = max(by_text.values(), key=lambda same: len(_changes(same)), default=[])
        if len(_changes(alike)) < MOST * changes:
            return
        raise SuspiciousAnswers(
            f"{self.model} gave one and the same edit for {len(_changes(alike))} of the first "
            f"{changes} relative captions: "
            + "; ".join(
                f"{_short(one.raw)} for {_short(one.relative_caption)}" for one in alike[:SHOWN]
            )
            + self._advice(" with --retry-failed"),
            tuple(one.key for one in alike),
        )

    @staticmethod
    def _advice(again: str) -> str:
        return (
            ". Try one with `seize prompts try`, mend the prompt, the server or the model, then "
            f"repeat the same command{again}."
        )


def _changes(answers: "list[_First[Key]]") -> set[str]:
    return {one.relative_caption for one in answers}


def _short(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= 80 else f"{line[:77]}…")

"""Texts that are longer than the encoder reads."""

from dataclasses import dataclass

from pipeline.errors import MissingStageError, SeizeError
from pipeline.models import encoders
from pipeline.run import Run
from pipeline.stages import texts


@dataclass(frozen=True)
class Cut:
    """One kind of texts, and how many of them lose their end."""

    kind: str
    texts: int
    cut: int
    queries: int
    """Queries that have such a text."""
    most: int
    """Tokens that the longest of them loses."""


def cuts(run: Run, notes: list[str]) -> list[Cut]:
    """Count the texts of every kind that are here; what cannot be counted is said in ``notes``."""
    lacking = texts.lacking(run)
    found = []
    for name, kind in texts.kinds().items():
        if name in lacking or name == "relative_parts":
            continue
        try:
            by_query = kind.read(run)
        except MissingStageError:
            continue
        except SeizeError as error:
            notes.append(f"The texts {name!r} are not counted: {error}")
            continue
        wanted = list(dict.fromkeys(t for own in by_query.values() for t in own if t is not None))
        if not wanted:
            continue
        try:
            lost = encoders.cut(run.config.encoder, wanted)
        except SeizeError as error:
            notes.append(f"Texts are not counted, as the encoder is not here: {error}")
            return []
        if lost is None:
            notes.append("Texts are not counted: this kind of encoder does not tell their tokens.")
            return []
        tokens = dict(zip(wanted, lost, strict=True))
        long = {text for text, count in tokens.items() if count > 0}
        touched = sum(not long.isdisjoint(own) for own in by_query.values())
        found.append(Cut(name, len(wanted), len(long), touched, max(lost)))
    return found


def lines(found: list[Cut]) -> list[dict[str, str]]:
    """Return the table."""
    return [
        {
            "texts": cut.kind.replace("_", " "),
            "distinct": f"{cut.texts:,}",
            "cut": f"{cut.cut:,}",
            "queries touched": f"{cut.queries:,}",
            "tokens lost at most": f"{cut.most:,}",
        }
        for cut in found
    ]

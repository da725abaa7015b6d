"""How much a run is, before it is run: from the dataset, the configuration and the cache."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pipeline.errors import MissingStageError
from pipeline.models import captioners, encoders, llms
from pipeline.models.prompts import edit as prompts
from pipeline.run import Run
from pipeline.stages import caption, edit, embed, texts, verify
from pipeline.store.shards import Stored

CHARACTERS_A_TOKEN = 4
"""Of English text, by the usual rule of thumb."""
CAPTION_CHARACTERS = 50
"""Taken for a caption that does not exist yet; the demo's and COCO's are about that long."""
SAMPLE = 200
"""Prompts that are rendered to estimate the length of all."""

Certainty = Literal["exact", "at most", "estimate"]


@dataclass(frozen=True)
class Line:
    """One quantity of a run: how much in all, and how much of it the cache holds already."""

    stage: str
    quantity: str
    total: int
    cached: int = 0
    certainty: Certainty = "exact"

    @property
    def todo(self) -> int:
        """What is left to compute."""
        return max(self.total - self.cached, 0)

    def as_json(self) -> dict[str, Any]:
        """Return the line as JSON-able data."""
        return asdict(self) | {"todo": self.todo}


def plan(run: Run) -> list[Line]:
    """Return what every stage has to do; loads no model and asks no server."""
    captions, needed = _captions(run), texts.stages(run)
    width = encoders.width(run.config.clip)
    lines = _captioning(run, captions) if "caption" in needed else []
    lines += _edits(run, captions) if "edit" in needed else []
    lines += [*_gallery(run, width), *_texts(run, width), *_search(run)]
    return [*lines, *_verdicts(run)] if run.verified else lines


def _captions(run: Run) -> dict[str, list[str]]:
    """Return the captions of the queries that have some."""
    return {query: texts for query, texts in caption.known(run).items() if texts}


def _captioning(run: Run, captions: dict[str, list[str]]) -> list[Line]:
    config = run.config.captioner
    images = len(run.references)
    done = len({query.reference for query in run.queries if query.id in captions})
    tokens = config.samples * config.max_new_tokens
    if captioners.ROLE.choose(config).kind.given:
        return [Line("caption", "reference images", images, done)]
    return [
        Line("caption", "reference images", images, done),
        Line("caption", "captions", images * config.samples, done * config.samples),
        Line("caption", "tokens sampled", images * tokens, done * tokens, "at most"),
    ]


def _edits(run: Run, captions: dict[str, list[str]]) -> list[Line]:
    """Count distinct prompts: exact for captions that exist, all different for the others."""
    if llms.ROLE.chosen(run.config).kind.given:
        return []
    known = edit.pairs(run, captions)
    stand_ins = {
        query.id: [f"{query.reference} {n}" for n in range(run.config.captioner.samples)]
        for query in run.queries
        if query.id not in captions
    }
    unknown = edit.pairs(run, stand_ins)
    total = len(known) + len(unknown)
    done = edit.edited(run)
    cached = sum(pair in done for pair in known)
    prompt = prompts.load(run.config.llm.prompt)
    asked = _characters(prompt, known, 0) + _characters(prompt, unknown, CAPTION_CHARACTERS)
    each = asked / max(total, 1) / CHARACTERS_A_TOKEN
    certainty: Certainty = "at most" if unknown else "exact"
    return [
        Line("edit", "distinct prompts", total, cached, certainty),
        Line("edit", "prompt tokens", round(total * each), round(cached * each), "estimate"),
        Line(
            "edit", "tokens answered", total * prompt.max_tokens, cached * prompt.max_tokens,
            "at most",
        ),
    ]  # fmt: skip


def _characters(prompt: prompts.Prompt, pairs: Sequence[edit.Pair], caption: int) -> float:
    """Return about how many characters all prompts have; ``caption`` long where it is given."""
    sample = pairs[:: len(pairs) // SAMPLE + 1]
    lengths = [
        sum(
            len(message["content"])
            for message in prompt.messages(
                "x" * caption or pair.caption, pair.relative_caption, pair.shared_concept
            )
        )
        for pair in sample
    ]
    return sum(lengths) / max(len(lengths), 1) * len(pairs)


def _gallery(run: Run, width: int | None) -> list[Line]:
    stored = Stored(embed.image_file(run)).places
    images = run.dataset.images
    return _features("image", len(images), sum(n in stored for n in images), width)


def _texts(run: Run, width: int | None) -> list[Line]:
    """Count the texts: exact once captions and edits exist, before all different."""
    needed = texts.stages(run)
    try:
        wanted = texts.embedded(run)
    except MissingStageError:
        samples = run.config.captioner.samples
        edits = sum(
            len(run.relative_captions(query)) * samples * run.config.llm.edits
            for query in run.queries
        )
        relative = {text for query in run.queries for text in run.relative_captions(query)}
        total = len(relative) + len(run.references) * samples
        total += edits if "edit" in needed else 0
        return _features("text", total, 0, width, "at most")
    if not wanted:
        return []
    stored = Stored(embed.text_file(run)).places
    return _features("text", len(wanted), sum(text in stored for text in wanted), width)


def _features(
    what: str, total: int, cached: int, width: int | None, certainty: Certainty = "exact"
) -> list[Line]:
    """Return how many there are and the bytes of their features, where the width is known."""
    count = Line("embed", f"{what}s", total, cached, certainty)
    if width is None:
        return [count]
    disk: Certainty = "estimate" if certainty == "exact" else certainty  # names come on top
    return [
        count,
        Line("embed", f"bytes of {what} features", 4 * width * total, 4 * width * cached, disk),
    ]


def _search(run: Run) -> list[Line]:
    sizes = {name: len(images) for name, images in run.dataset.galleries.items()}
    scores = sum(sizes[query.gallery] for query in run.queries)
    return [Line("search", "queries", len(run.queries)), Line("search", "scores", scores)]


def _verdicts(run: Run) -> list[Line]:
    """Count the verifier's calls: fewer where it stops early, or a query has fewer captions."""
    config = run.config.verifier
    candidates = len(run.queries) * config.candidates + sum(len(q.group) for q in run.queries)
    calls = candidates * config.captions
    done = min(len(verify.record_file(run).read()), calls)
    return [Line("verify", "calls", calls, done, "at most")]


def render(run: Run, lines: Sequence[Line]) -> str:
    """Return the plan as a table with a note on what its figures are."""
    from tabulate import tabulate

    cells = [
        (line.stage, line.quantity, *map("{:,}".format, (line.total, line.cached, line.todo)),
         line.certainty)
        for line in lines
    ]  # fmt: skip
    columns = ("stage", "quantity", "in all", "cached", "to do", "")
    align = ("left", "left", "right", "right", "right", "left")
    table = tabulate(cells, columns, tablefmt="simple", disable_numparse=True, colalign=align)
    return (
        f"{run.name}\n{table}\nEstimates take {CHARACTERS_A_TOKEN} characters for a token, "
        f"{CAPTION_CHARACTERS} for a caption that is not there yet, and float32 features."
    )

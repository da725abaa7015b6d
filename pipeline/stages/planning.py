"""What `seize synthesize` has to do, before it is done: for `seize plan` and `--plan`."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from pipeline.models import encoders
from pipeline.stages import caption, embed, embeddings, estimates, work, writing
from pipeline.stages.base import Certainty, Line
from pipeline.stages.synthesize import Source, drawn, images_alone, pairs
from pipeline.stages.writing import Question, Writer
from pipeline.store.features import FeatureFile
from pipeline.store.schema import WrittenRecord
from pipeline.store.shards import Stored

COMPARED = 4e8
"""Comparisons of two images that a plan makes itself; of more it tells the most that can be."""

Pairs = Sequence[tuple[str, str | None, int]]
"""Reference, target (None where the LLM is to invent it) and which of several edits."""


@dataclass(frozen=True)
class Wanted:
    """What is written about, as far as it is known before."""

    references: Sequence[str]
    pairs: Pairs | None
    """None where the neighbours are not known yet."""
    images: Sequence[str]
    """Those that are described; where the pairs are not known, as many as it may be."""


def plan(source: Source, limit: int | None = None) -> list[Line]:
    """Return what every part of ``synthesize`` has to do; loads no model and asks no server.

    Neighbours are looked for where all features are there and that takes seconds: then the prompts
    are counted, else they are at most so many. Raises InputError as ``synthesize``.
    """
    run = source.run
    writer = Writer.of(run.config, run.config.synthesize.prompt)
    stored = Stored(embeddings.image_file(run)).places
    images = list(run.dataset.images)
    there = sum(name in stored for name in images)
    wanted = _wanted(source, writer, limit, whole=there == len(images))
    captioned = replace(run, dataset=images_alone(run.dataset, wanted.images))
    captions = {name: made for name, made in caption.known(captioned).items() if made}
    described = [
        line if wanted.pairs is not None or line.certainty == "estimate" else _at_most(line)
        for line in caption.STAGE.plan(captioned)
    ]
    answered = writing.known(writer.records(run.cache))
    return [
        *embed.planned(run, "image", len(images), there, encoders.width_of(run.config.encoder)),
        *described,
        *_prompts(source, writer, wanted, captions, answered),
        *_texts(source, writer, wanted, captions, answered),
    ]


def _at_most(line: Line) -> Line:
    return replace(line, certainty="at most")


def _wanted(source: Source, writer: Writer, limit: int | None, whole: bool) -> Wanted:
    run, settings = source.run, source.run.config.synthesize
    images = run.references
    references = drawn(run, images, limit)
    if writer.prompt.way != "pair":
        edits = range(settings.edits)
        return Wanted(
            references, [(name, None, n) for name in references for n in edits], references
        )
    if whole and len(references) * len(images) <= COMPARED:
        gallery = FeatureFile(embeddings.image_file(run))
        found = pairs(source, gallery, references, Counter())
        used = dict.fromkeys(image for pair in found for image in pair)
        return Wanted(references, [(*pair, 0) for pair in found], list(used))
    most = len(references) * (1 + settings.neighbours)
    used = dict.fromkeys([*references, *images])
    return Wanted(references, None, list(islice(used, most)))


def _questions(
    source: Source, writer: Writer, wanted: Wanted, captions: Mapping[str, Sequence[str]]
) -> Iterator[tuple[Question, bool]]:
    """Yield each prompt, and whether all of it is known; captions of the usual length stand in."""
    stand_in = "x" * estimates.CAPTION_CHARACTERS
    every: Pairs = wanted.pairs or [(name, None, 0) for name in wanted.references]
    for reference, target, sample in every:
        texts: dict[str, str | None] = {"source": captions.get(reference, [stand_in])[0]}
        if writer.prompt.way == "pair":
            texts["target"] = captions.get(target or "", [stand_in])[0]
        if "category" in writer.prompt.variables:
            texts["category"] = source.categories.get(reference)
        yield Question.of(texts, sample), reference in captions


def _prompts(
    source: Source,
    writer: Writer,
    wanted: Wanted,
    captions: Mapping[str, Sequence[str]],
    answered: Mapping[Question, WrittenRecord],
) -> list[Line]:
    """Count the prompts: exact where each image has its one caption, before all different."""
    run, settings = source.run, source.run.config.synthesize
    questions = list(_questions(source, writer, wanted, captions))
    certainty: Certainty = "at most"
    if wanted.pairs is None:
        total = len(wanted.references) * settings.neighbours
        done = 0
    elif run.config.captioner.samples == 1 and all(known for _, known in questions):
        distinct = {question for question, _ in questions if _differs(question)}
        total, done, certainty = len(distinct), sum(map(answered.__contains__, distinct)), "exact"
    else:
        total, done = len(wanted.pairs), _answered(wanted.pairs, captions, answered)
    sample = questions[:: len(questions) // estimates.SAMPLE + 1]
    lengths = [
        sum(len(message["content"]) for message in writer.prompt.messages(question.given))
        for question, _ in sample
    ]
    each = sum(lengths) / max(len(lengths), 1) / estimates.CHARACTERS_A_TOKEN
    most = writer.prompt.max_tokens
    fields = 2 + len(writer.prompt.task.fields)  # what was asked, and what was answered
    record = fields * (estimates.CAPTION_CHARACTERS + estimates.BESIDE)
    prompts = work.write(replace(run, config=writer.config), each, most)
    return [
        Line("synthesize", "distinct prompts", total, done, certainty, prompts),
        Line("synthesize", "prompt tokens", round(total * each), round(done * each), "estimate"),
        Line("synthesize", "tokens answered", total * most, done * most, "at most"),
        Line("synthesize", "bytes of answers", total * record, done * record, "estimate"),
    ]


def _differs(question: Question) -> bool:
    """Whether something is asked: nothing is about two images that are described alike."""
    texts = question.given
    return texts["source"].casefold() != texts.get("target", "").casefold()


def _answered(
    every: Pairs,
    captions: Mapping[str, Sequence[str]],
    answered: Mapping[Question, WrittenRecord],
) -> int:
    """Return how many pairs were asked about, by whichever of their captions."""
    targets: dict[tuple[str, int], set[str]] = defaultdict(set)
    for question in answered:
        texts = question.given
        targets[texts["source"], question.sample].add(texts.get("target", ""))
    return sum(
        any(
            not targets[source, sample].isdisjoint(captions.get(target, ()) if target else [""])
            for source in captions.get(reference, ())
            if (source, sample) in targets
        )
        for reference, target, sample in every
    )


def _texts(
    source: Source,
    writer: Writer,
    wanted: Wanted,
    captions: Mapping[str, Sequence[str]],
    answered: Mapping[Question, WrittenRecord],
) -> list[Line]:
    """Count the texts to embed, all different at most: captions to choose from, and of targets."""
    run, invents = source.run, writer.prompt.way != "pair"
    samples = run.config.captioner.samples
    total = samples * len(wanted.images) if samples > 1 or not invents else 0
    known = {text for made in captions.values() for text in made} if total else set()
    if invents:
        total += len(wanted.pairs or ())
        own = {text for made in captions.values() for text in made}
        answers = (r["answer"] for q, r in answered.items() if q.given["source"] in own)
        known |= {one.get("target_caption", "") for one in answers if one}
    stored = Stored(embeddings.text_file(run)).places
    done, width = sum(text in stored for text in known), encoders.width_of(run.config.encoder)
    return embed.planned(run, "text", total, done, width, "at most")

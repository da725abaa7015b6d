"""The synthesize stage: triplets written by an LLM about images that nobody annotated.

From pairs of near neighbours two descriptions become the difference, forward and reverse (FACap's
two stages, MTST's reverse text); from captions alone the LLM writes an edit and the edited caption
(SCOT), whose nearest image stands for the target (TransAgg's shape). The prompt says which.
"""

import random
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.config import Config, resolve_device
from pipeline.datasets import triplets
from pipeline.datasets.base import Dataset
from pipeline.datasets.triplets import Triplet
from pipeline.errors import ConfigError, InputError
from pipeline.models import captioners
from pipeline.records import Query
from pipeline.run import Run, StageReport, log, stage
from pipeline.stages import caption, embed, embeddings, vetting, writing
from pipeline.stages.neighbours import nearest
from pipeline.stages.writing import Question, Serving, Writer
from pipeline.store.features import FeatureFile
from pipeline.store.files import storage_errors, write_json
from pipeline.store.schema import WrittenRecord

if TYPE_CHECKING:
    from torch import Tensor

IMAGE_WAYS = ("pair", "caption")
"""What can be written about images; the others rewrite texts that are there."""


@dataclass(frozen=True)
class Source:
    """Images to write about. ``run`` has one query an image, which is its reference."""

    run: Run
    names: Mapping[str, str] = field(default_factory=dict)
    """What triplets call an image, where it is not by its id."""
    categories: Mapping[str, str] = field(default_factory=dict)
    """Image to category, where there are categories."""


@dataclass(frozen=True)
class Synthesized:
    """What was written, and what was not."""

    file: Path
    triplets: int
    dropped: Mapping[str, int]
    """Reason to how many were left out, of texts and of images."""
    reports: Sequence[StageReport]

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return {
            "file": str(self.file),
            "triplets": self.triplets,
            "dropped": dict(self.dropped),
            "stages": [report.as_json() for report in self.reports],
        }

    def summary(self) -> str:
        """Return lines: how many triplets, and how many were left out, why."""
        left = [f"  {count:,} left out: {why}" for why, count in self.dropped.items()]
        return "\n".join([f"{self.triplets:,} triplets -> {self.file}", *left])


def of_dataset(run: Run) -> Source:
    """Return a benchmark's gallery as a source; its galleries, where there are several, are
    categories (FashionIQ's)."""
    dataset = images_alone(run.dataset, list(run.dataset.images))
    several = len(dataset.galleries) > 1
    categories = {
        image: name
        for name, images in (dataset.galleries.items() if several else ())
        for image in images
    }
    return Source(replace(run, dataset=dataset), categories=categories)


def images_alone(dataset: Dataset, images: Sequence[str]) -> Dataset:
    """Return the dataset with one query for each of ``images``, which has no text."""
    alone = copy(dataset)
    alone.queries = [Query(image, image, ()) for image in images]
    return alone


def check(config: Config) -> Writer:
    """Return who writes; raises ConfigError or ModelError for what cannot be used."""
    writer = writing.check(config, config.synthesize.prompt)
    if writer.prompt.way not in IMAGE_WAYS:
        raise ConfigError(
            f"The prompt {writer.prompt.name!r} rewrites texts: use it with `seize triplets "
            "rewrite`. About images write difference and edit, for instance."
        )
    return writer


def synthesize(
    source: Source,
    out: Path,
    split: str,
    limit: int | None = None,
    retry_failed: bool = False,
    serving: Serving | None = None,
) -> Synthesized:
    """Write ``triplets.SPLIT.jsonl`` with its images' listing into the folder ``out``.

    ``limit`` draws that many reference images. What the cache holds is not computed again; a text
    that failed stays so unless ``retry_failed``. ``serving()`` serves the LLM while it writes.
    Raises InputError where no triplet can be made.
    """
    run = source.run
    writer = check(run.config)
    _check_images(run.dataset)
    _check_out(out, run.dataset.root)
    reports = [embed.embed_images(run)]
    gallery = FeatureFile(embeddings.image_file(run))
    dropped: Counter[str] = Counter()
    references = drawn(run, gallery.row, limit)
    chosen = pairs(source, gallery, references, dropped) if _pairwise(writer) else []
    used = dict.fromkeys(image for pair in chosen for image in pair) if chosen else references
    captioned = replace(run, dataset=images_alone(run.dataset, list(used)))
    reports.append(caption.caption(captioned))
    made, report = _best_captions(captioned, gallery)
    reports += report
    asked = _asked(source, writer, chosen, references, made, dropped)
    records = writer.records(run.cache)
    reads: list[Path | str] = [caption.record_file(run).file, writer.prompt.name]
    with stage("synthesize", run, reads, records.file, "texts") as report_:
        if serving:
            captioners.unload()  # the server may need its memory
        answers = writing.write(writer, list(asked), records, report_, retry_failed, serving)
    reports.append(report_)
    found = list(_triplets(source, writer, asked, answers, made, dropped))
    found, more = _with_targets(source, gallery, found, dropped)
    kept, taken = vetting.vet(found, _closer(source, gallery, found))
    kept = [_named(one, source.names) for one in kept]
    if not kept:
        told = ", ".join(f"{count:,} {why}" for why, count in (dropped + taken).items())
        raise InputError(f"No triplet is left ({told or 'there were no images'}).")
    file = out / f"triplets.{split}.jsonl"
    triplets.write(file, kept)
    _write_listing(source, out)
    return Synthesized(file, len(kept), dropped + taken, [*reports, *more])


def _pairwise(writer: Writer) -> bool:
    return writer.prompt.way == "pair"


def drawn(run: Run, readable: Container[str], limit: int | None) -> list[str]:
    """Return the reference images: all that are ``readable``, or some drawn by the seed."""
    known = sorted(name for name in run.references if name in readable)
    if limit is None:
        return known
    if limit > len(known):
        log.warning("There are only %d images that can be references, not %d.", len(known), limit)
    return sorted(random.Random(run.config.synthesize.seed).sample(known, min(limit, len(known))))


def _unit(gallery: FeatureFile, names: Sequence[str]) -> "Tensor":
    """Return normalised features (n, d) of some of a file's items."""
    import torch

    from pipeline.retrieval.scoring import normalise

    rows = np.array([gallery.row[name] for name in names], dtype=np.int64)
    return normalise(torch.from_numpy(gallery.take(rows)).float())


def pairs(
    source: Source, gallery: FeatureFile, references: Sequence[str], dropped: Counter[str]
) -> list[tuple[str, str]]:
    """Return each reference with its nearest images; a pair that comes both ways comes once.

    What has no neighbour is counted in ``dropped``; InputError where no two images make a pair.
    Which of the two is the reference follows from their ids, so that nothing is asked anew where
    images of a folder are added or renamed.
    """
    settings = source.run.config.synthesize
    categories = source.categories if settings.within_category else {}
    found = nearest(
        _unit(gallery, references),
        references,
        gallery,
        categories,
        settings.neighbours,
        settings.copies_above,
        resolve_device(source.run.config.runtime.device),
    )
    made: dict[tuple[str, str], None] = {}
    for number, names in found.names.items():
        if not names:
            dropped["images whose neighbours are all copies"] += 1
        for name in names:
            first, second = sorted((references[number], name))
            made.setdefault((first, second))
    if found.alone:
        dropped["images alone in their category"] += len(found.alone)
    if not made:
        told = ", ".join(f"{count:,} {why}" for why, count in dropped.items())
        raise InputError(
            f"No two images make a pair ({told or 'there is only one image'}). Give more images, "
            "or set synthesize.copies_above higher, or synthesize.within_category to false."
        )
    return list(made)


def _best_captions(run: Run, gallery: FeatureFile) -> tuple[dict[str, str], list[StageReport]]:
    """Return each image's caption; of several the one that the encoder finds nearest to it."""
    captions = {image: texts for image, texts in caption.known(run).items() if texts}
    several = sorted({text for texts in captions.values() if len(texts) > 1 for text in texts})
    if not several:
        return {image: texts[0] for image, texts in captions.items()}, []
    report = embed.embed_texts(run, several, [caption.record_file(run).file])
    known = FeatureFile(embeddings.text_file(run))
    best = {}
    for image, texts in captions.items():
        near = _unit(known, texts) @ _unit(gallery, [image])[0] if len(texts) > 1 else None
        best[image] = texts[0 if near is None else int(near.argmax())]
    return best, [report]


Asked = dict[Question, list[tuple[str, str | None]]]
"""What is asked, and the reference and target that each question is about."""


def _asked(
    source: Source,
    writer: Writer,
    chosen: Sequence[tuple[str, str]],
    references: Sequence[str],
    captions: Mapping[str, str],
    dropped: Counter[str],
) -> Asked:
    edits = range(source.run.config.synthesize.edits)
    both: list[tuple[str, str | None, int]] = [(*pair, 0) for pair in chosen]
    both = both or [(image, None, sample) for image in references for sample in edits]
    asked: Asked = {}
    for reference, target, sample in both:
        if reference not in captions or (target is not None and target not in captions):
            dropped["without a caption"] += 1
            continue
        texts: dict[str, str | None] = {"source": captions[reference]}
        if target is not None:
            texts["target"] = captions[target]
            if captions[target].casefold() == captions[reference].casefold():
                dropped["pairs that are described alike"] += 1
                continue
        if "category" in writer.prompt.variables:
            texts["category"] = source.categories.get(reference)
        asked.setdefault(Question.of(texts, sample), []).append((reference, target))
    return asked


def _triplets(
    source: Source,
    writer: Writer,
    asked: Asked,
    answers: Mapping[Question, WrittenRecord],
    captions: Mapping[str, str],
    dropped: Counter[str],
) -> Iterator[Triplet]:
    """Yield what was written as triplets, before any filter."""
    for question, places in asked.items():
        answer = answers[question]["answer"]
        if answer is None:
            dropped[answers[question].get("reason") or "failed"] += len(places)
            continue
        for reference, target in places:
            yield Triplet(
                reference=reference,
                target=target,
                source_caption=captions[reference],
                target_caption=answer.get("target_caption") or captions.get(target or ""),
                text=answer["text"],
                text_reverse=answer.get("text_reverse"),
                category=source.categories.get(reference),
                generator=writer.name,
                prompt_version=writer.version,
            )


def _captions_embedded(run: Run, found: Sequence[Triplet]) -> tuple[FeatureFile, StageReport]:
    wanted = sorted({one.target_caption or "" for one in found})
    report = embed.embed_texts(run, wanted, [caption.record_file(run).file])
    return FeatureFile(embeddings.text_file(run)), report


def _with_targets(
    source: Source, gallery: FeatureFile, found: list[Triplet], dropped: Counter[str]
) -> tuple[list[Triplet], list[StageReport]]:
    """Give each triplet that has only its target's caption the image nearest to it.

    Of the reference's category, and not the reference.
    """
    if not found:
        return found, []
    known, report = _captions_embedded(source.run, found)
    lacking = [one for one in found if one.target is None]
    if not lacking:
        return found, [report]
    targets = nearest(
        _unit(known, [one.target_caption or "" for one in lacking]),
        [one.reference for one in lacking],
        gallery,
        source.categories if source.run.config.synthesize.within_category else {},
        count=1,
        device=resolve_device(source.run.config.runtime.device),
    )
    dropped["images alone in their category"] += len(targets.alone)
    made = [
        lacking[number].model_copy(update={"target": names[0]})
        for number, names in targets.names.items()
        if names
    ]
    return [*(one for one in found if one.target is not None), *made], [report]


def _closer(source: Source, gallery: FeatureFile, found: Sequence[Triplet]) -> vetting.Closer:
    """Return whether the edited caption is nearer to the target than to the reference.

    By ``synthesize.margin`` at least, as cosines.
    """
    if not found:
        return lambda one: True
    known = FeatureFile(embeddings.text_file(source.run))
    margin = source.run.config.synthesize.margin
    texts = _unit(known, [one.target_caption or "" for one in found])
    change = _unit(gallery, [one.target or "" for one in found])
    change = change - _unit(gallery, [one.reference for one in found])
    gained = (texts * change).sum(dim=1).tolist()
    above = {id(one): gain > margin for one, gain in zip(found, gained, strict=True)}
    return lambda one: above[id(one)]


def _named(one: Triplet, names: Mapping[str, str]) -> Triplet:
    called = {"reference": one.reference, "target": one.target}
    return one.model_copy(update={k: names.get(v, v) if v else v for k, v in called.items()})


def _check_images(dataset: Dataset) -> None:
    """Raise InputError for images that are parts of files, which no listing of files can hold."""
    if any(not isinstance(file, Path) for file in dataset.images.values()):
        raise InputError(
            f"Images of {dataset.name} are parts of files, and triplets name whole ones. Use a "
            "benchmark of whole images, or a folder."
        )


def _check_out(out: Path, images: Path) -> None:
    """Raise InputError where ``out`` holds triplets of other images."""
    link = out / triplets.IMAGES
    if (link.is_symlink() or link.exists()) and link.resolve() != images.resolve():
        raise InputError(f"{out} holds triplets of other images ({link}). Choose another --out.")


def _write_listing(source: Source, out: Path) -> None:
    """Write which images there are, and link to the folder that they are in."""
    dataset, names = source.run.dataset, source.names
    paths = {
        names.get(image, image): file.relative_to(dataset.root).as_posix()
        for image, file in dataset.images.items()
        if isinstance(file, Path)
    }
    same = all(name == path for name, path in paths.items())
    write_json(out / triplets.LISTING, list(paths) if same else paths)
    link = out / triplets.IMAGES
    with storage_errors(link):
        if not link.exists():
            link.symlink_to(dataset.root.resolve(), target_is_directory=True)

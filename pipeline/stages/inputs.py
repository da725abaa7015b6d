"""A run's features: of the gallery, and the clues of its queries, gathered when asked for."""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pipeline.config import encoder_of
from pipeline.errors import InputError
from pipeline.images.files import read_named
from pipeline.models.embedding import encode_missing, encode_pairs, finite
from pipeline.records import Query
from pipeline.retrieval import methods
from pipeline.retrieval.clues import Clue, Clues, Texts
from pipeline.retrieval.scoring import Ends, mean_of_each
from pipeline.retrieval.sections import Kind, section
from pipeline.run import Run, StageReport, log, progress, stage
from pipeline.stages import edit, embeddings, texts
from pipeline.store.features import FeatureFile, write_features
from pipeline.store.identity import fingerprint
from pipeline.store.shards import Encoded

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.encoders._open_clip import Clip

QUERIES = 64
"""Queries whose captions LDRE compares with the gallery at a time, 15 vectors each."""


class Inputs:
    """A run's features: of the gallery, memory-mapped, and of its queries as ``clues``.

    Texts and their features are read when a clue asks for them, so that a method takes the memory
    of its own clues alone. ``searcher`` searches the gallery; ``lacks`` says what is missing.
    Raises MissingStageError where a stage was not run. For ``making`` a clue it may be of some
    ``queries`` alone.
    """

    def __init__(
        self, run: Run, making: bool = False, queries: Sequence[Query] | None = None
    ) -> None:
        from pipeline.retrieval.searcher import Searcher

        self.run = run
        self.queries = run.queries if queries is None else queries
        self.encoder_name = encoder_of(run.config.search.method)
        image_path = embeddings.image_file(run)
        if not image_path.exists():
            raise run.missing("embed", image_path, "The gallery has no features")
        self.images = FeatureFile(image_path)
        self.files = [image_path]
        self.searcher = Searcher(run, self.images)
        self._lost: dict[str, str] = {}
        self._missing: dict[str, str] = {}
        self.notes: list[str] = []
        if len(self.images.names) < len(run.dataset.images):
            lost = run.dataset.images.keys() - set(self.images.names)
            self._lost["gallery"] = (
                f"{len(lost)} images have no feature and cannot be retrieved; "
                f"{run.dataset.touched_by(lost)} of {len(run.queries)} queries have one as "
                "reference or ground truth"
            )
        self.clues = Clues(self)
        self._making = making
        self._texts: dict[str, Texts] = {}
        self._embeddings: FeatureFile | None = None

    @property
    def count(self) -> int:
        """How many queries there are."""
        return len(self.queries)

    @property
    def normalise_texts(self) -> bool:
        """Whether normalised text embeddings are averaged instead of raw ones."""
        return self.run.config.search.normalise_texts

    @property
    def dataset(self) -> str:
        """The benchmark's name."""
        return self.run.dataset.name

    def settings(self, kind: type[Kind]) -> Kind:
        """Return a section of settings as it is for the benchmark."""
        return section(self.run.config, kind, self.dataset)

    def encoder(self) -> "Clip":
        """Return CLIP in the precision that the gallery was embedded in."""
        from pipeline.models.inversion import towers

        config, _ = embeddings.settle(self.run.config, embeddings.image_file(self.run))
        return towers.load(config.encoder, config.runtime)

    def note(self, said: str) -> None:
        """Keep a note for the stage's report."""
        self.notes.append(said)

    def texts(self, kind: str) -> Texts:
        """Return the texts of a kind by query, as the stages before made them."""
        if kind not in self._texts:
            found = texts.kinds()[kind].read(self.run)
            self._texts[kind] = [list(found.get(query.id, ())) for query in self.queries]
            if kind == "edits":
                self._note_missing(self._texts[kind])
        return self._texts[kind]

    def lacks(self, method: str) -> dict[str, str]:
        """Return what is missing of the gallery, and of the texts that a method read, with why."""
        edited = "edits" in methods.reads(method)
        return self._lost | (self._missing if edited else {})

    def _note_missing(self, edits: Texts) -> None:
        for query, answers in zip(self.queries, edits, strict=True):
            failed = sum(answer is None for answer in answers)
            if failed == len(answers):
                said = "no edited caption; its relative caption is used"
                self._missing[f"query {query.id}"] = said
            elif failed:
                said = f"{failed} of {len(answers)} edits missing"
                self._missing[f"query {query.id}"] = said
        if any(None in answers for answers in edits) and (why := edit.why_missing(self.run)):
            self._missing["edits"] = f"most of those missing: {why}"

    def embed(self, wanted: Sequence[str]) -> "Tensor":
        """Return raw embeddings, float32 (wanted, d), of texts that the embed stage embedded."""
        import torch

        if not wanted:
            return torch.empty(0, self.images.shape[1])
        stored = self._stored()
        try:
            rows = [stored.row[text] for text in wanted]
        except KeyError as error:
            raise self.run.missing(
                "embed", stored.file, f"The text {error.args[0]!r} has no feature yet"
            ) from None
        return torch.from_numpy(stored.take(np.array(rows))).float()

    def _stored(self) -> FeatureFile:
        if self._embeddings is None:
            file = embeddings.text_file(self.run)
            if not file.exists():
                raise self.run.missing("embed", file, "The texts have no features")
            self._embeddings = FeatureFile(file)
            self.files.append(file)
        return self._embeddings

    def references(self) -> "Tensor":
        """Return the mean raw feature of each query's reference images, float32 (queries, d)."""
        return mean_of_each(self.reference_lists(), self.images.shape[1])

    def reference_lists(self) -> "list[Tensor]":
        """Return the raw features of each query's reference images that could be read (n, d)."""
        import torch

        row = self.images.row
        rows = [[row[name] for name in q.references if name in row] for q in self.queries]
        flat = np.array([one for own in rows for one in own], dtype=np.int64)
        features = torch.from_numpy(self.images.take(flat)).float()
        return list(torch.split(features, [len(own) for own in rows]))

    def pictures(self) -> "Iterator[tuple[list[list[tuple[int, int]]], Tensor]]":
        """Yield the reference images as CLIP prepares them, by the batch, with their queries."""
        from pipeline.models.decode import decode

        images, places = self.run.dataset.images, dict[str, list[tuple[int, int]]]()
        row = self.images.row
        for query, asked in enumerate(self.queries):
            for place, name in enumerate(name for name in asked.references if name in row):
                places.setdefault(name, []).append((query, place))
        read = functools.partial(read_named, images)
        with progress(len(places), 0, "image", "pseudo-words") as bar:
            for chunk in decode(list(places), read, self.encoder(), self.run.config.runtime):
                if chunk.names:
                    yield [places[name] for name in chunk.names], cast("Tensor", chunk.prepared)
                bar.update(len(chunk.names))

    def joint(self, asked: Sequence[tuple[int, str]], instruction: str) -> "Tensor":
        """Return the mean raw feature (asked, d) of each query's reference images with a text."""
        import torch

        config, _ = embeddings.settle(self.run.config, embeddings.image_file(self.run))
        read = functools.partial(read_named, self.run.dataset.images)
        names = [self.queries[query].references for query, _ in asked]
        pairs = [(name, text) for own, (_, text) in zip(names, asked, strict=True) for name in own]
        made, lost = encode_pairs(config, read, pairs, instruction)
        for name, why in lost.items():
            self.note(f"The text of {name} stands alone: {why}")
        lists = torch.split(torch.from_numpy(made), [len(own) for own in names])
        return mean_of_each(lists, made.shape[1])

    def drops(self, differences: "list[Tensor]", k: int) -> "list[Tensor]":
        """Return LDRE's k largest drops of every edit over its query's gallery (edits, up to k).

        A drop is (E(caption) − E(edit))·x, so each ``differences`` row (edits, d) is one inner
        product.
        """
        import torch

        from pipeline.retrieval.parts import parts

        found = [torch.zeros(len(rows), 0) for rows in differences]
        with progress(len(differences), 0, "query", "largest drops") as bar:
            for part in parts(self.run, self.images):
                for start in range(0, len(part.places), QUERIES):
                    chunk = part.places[start : start + QUERIES]
                    rows = torch.cat([differences[i] for i in chunk])
                    best, _ = self.searcher.best(Ends(rows, rows), part, k, excluding=False)
                    split = torch.split(best.clamp(min=0), [len(differences[i]) for i in chunk])
                    for i, piece in zip(chunk, split, strict=True):
                        found[i] = piece
                    bar.update(len(chunk))
        return found

    def computed(self, clue: Clue, make: "Callable[[], Tensor]") -> "Tensor":
        """Return a clue that a model made (queries, d), from its file; see ``make_clues``."""
        import torch

        file = clue_file(self.run, clue)
        if self._making:
            return make()
        if not file.exists():
            raise self.run.missing("embed", file, f"The clue {clue.name!r} was not made")
        stored = FeatureFile(file)
        row = stored.row
        if lacking := next((q.id for q in self.queries if q.id not in row), None):
            raise InputError(f"{file} lacks query {lacking}. Delete it and run `seize embed`.")
        self.files.append(file)
        rows = np.array([row[query.id] for query in self.queries])
        return torch.from_numpy(stored.take(rows)).float()


def clue_header(run: Run, clue: Clue) -> dict[str, Any]:
    """Return everything that changes a clue which a model makes."""
    return {
        "clue": clue.name,
        **clue.header(run),
        **texts.headers(run, clue.reads),
        "clip": embeddings.header(run),
        "protocol": run.protocol,
        "queries": run.dataset.fingerprint,
        "limited_to": None if run.dataset.complete else len(run.queries),
    }


def clue_file(run: Run, clue: Clue) -> Path:
    """Return where a clue that a model makes is kept, one vector a query."""
    return run.file("clues", clue.name, fingerprint(clue_header(run, clue)), ".safetensors")


def make_clues(run: Run) -> list[StageReport]:
    """Make the clues of the run's methods that only a model can make, and keep them."""
    return [report for one in texts.by_encoder(run) for report in _make_clues(one)]


def _make_clues(run: Run) -> list[StageReport]:
    wanted: dict[str, Clue] = {}
    for name in texts.selection(run):
        wanted |= methods.clues_of(name)
    reports = []
    for clue in wanted.values():
        if not clue.by_model:
            continue
        file = clue_file(run, clue)
        with stage("embed", run, [embeddings.image_file(run)], file, "queries") as report:
            if clue.by_part:
                _make_by_part(run, clue, file, report)
            elif file.exists():
                report.cached = len(run.queries)
                report.notes += FeatureFile(file).header.get("notes", ())
            else:
                inputs = Inputs(run, making=True)
                names = [query.id for query in run.queries]
                with report.step("model"):
                    made = inputs.clues.vectors(clue.name).numpy()
                told = clue_header(run, clue) | {"notes": inputs.notes}
                write_features(file, names, finite(made, names, "query"), told)
                report.computed, report.notes = len(names), inputs.notes
                for said in inputs.notes:
                    log.warning("%s", said)
        reports.append(report)
    return reports


def _make_by_part(run: Run, clue: Clue, file: Path, report: StageReport) -> None:
    """Make a clue of some queries at a time; what is made is kept however the run ends."""
    by_id = {query.id: query for query in run.queries}
    size = run.config.runtime.shard

    def encode(todo: Sequence[str], _: dict[str, str]) -> Iterator[Encoded]:
        for start in range(0, len(todo), size):
            names = list(todo[start : start + size])
            inputs = Inputs(run, making=True, queries=[by_id[name] for name in names])
            with report.step("model"):
                made = inputs.clues.vectors(clue.name).numpy()
            report.notes += [note for note in inputs.notes if note not in report.notes]
            yield Encoded(names, finite(made, names, "query"))

    encode_missing(file, list(by_id), encode, clue_header(run, clue), size, report, "query")


def ready(run: Run) -> list[str]:
    """Return the run's methods; for ``all`` those whose clues are there or need no model.

    Raises ConfigError, see ``methods.selection``.
    """
    names = texts.selection(run)
    if run.config.search.method != "all":
        return names
    lacking = {
        name
        for name in names
        for clue in methods.clues_of(name).values()
        if clue.by_model and not clue_file(run.with_method(name), clue).exists()
    }
    if lacking:
        log.info("Left out, as a model has to make their clues first: %s. Run: seize embed %s",
                 ", ".join(sorted(lacking)), run.command)  # fmt: skip
    return [name for name in names if name not in lacking]


def settings_of(run: Run, name: str) -> dict[str, Any]:
    """Return the weights of a method's sections for the run, for a ranking's header."""
    found = methods.settings(run.config, name, run.dataset.name)
    return {one.name: one.model_dump() for one in found}

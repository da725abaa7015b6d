"""Textual inversion: the query as a text in which pseudo-words stand for the reference image.

One clue a method, each with a section of its own for the weights of φ and the prompt, so that
several can be compared in one run.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from pipeline.config import Config, shipped
from pipeline.errors import ConfigError, ModelError
from pipeline.models.identity import model_identity
from pipeline.models.prompts import inversion as prompts
from pipeline.retrieval.clues.base import Clues, Source, clue
from pipeline.retrieval.scoring import normalise
from pipeline.retrieval.sections import Section, section
from pipeline.run import Run

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.encoders._open_clip import Clip
    from pipeline.models.inversion.networks import FineGrained, Network


class Inversion(Section):
    """The weights of φ and the prompt around the pseudo-words that it makes."""

    needed: ClassVar[Mapping[str, str]] = {"phi": "FILE"}
    network: ClassVar[str] = "Phi"
    """The class of ``models.inversion.networks`` that the weights must be of."""

    phi: str | None = Field(default=None, title="the weights of its network φ")
    prompt: str

    @property
    def file(self) -> Path:
        """The file of weights; those that come with the project are found from any folder.

        Raises ConfigError where none was chosen: a path of no name is the folder one works in.
        """
        self.require()
        return Path(shipped(self.phi or ""))


class Lincir(Inversion):
    """LinCIR's φ (CVPR 2024), trained from texts alone."""

    name: ClassVar[str] = "lincir"

    prompt: str = "lincir"


class Searle(Inversion):
    """SEARLE's φ (ICCV 2023), distilled from pseudo-words that were optimised image by image."""

    name: ClassVar[str] = "searle"

    prompt: str = "searle"


class Pic2word(Inversion):
    """Pic2Word's network (CVPR 2023), trained by contrast on images alone."""

    name: ClassVar[str] = "pic2word"
    network: ClassVar[str] = "Pic2Word"

    prompt: str = "pic2word"


class Fti4cir(Inversion):
    """FTI4CIR's network (SIGIR 2024): a subject and several attributes an image.

    The prompts ``fti4cir-subject`` and ``fti4cir-attributes`` take one kind alone.
    """

    name: ClassVar[str] = "fti4cir"
    network: ClassVar[str] = "FineGrained"

    prompt: str = "fti4cir"


Words = dict[str, "Tensor"]
"""Pseudo-words (n, t) of an image by what a template calls them: ``prompts.WORDS``."""
NOTHING = "something"
"""Stands for a reference image that could not be read."""


def check(kind: type[Inversion], config: Config, dataset: str) -> None:
    """Raise ConfigError for the prompt; ModelError for weights that are not there or do not fit."""
    from pipeline.models.inversion import towers

    own = section(config, kind, dataset)
    own.require()
    form = prompts.load(own.prompt).form(dataset)
    fine = kind.network == "FineGrained"
    if not fine and {*prompts.places(form.template)} != {"words"}:
        raise ConfigError(
            f"The inversion prompt {own.prompt!r} is for FTI4CIR's pseudo-words; {own.name} makes "
            "only {words}."
        )
    widths = towers.widths(config.encoder)
    if fine and widths.v == 0:
        raise towers.without_tokens(config.encoder.model)
    _load(own, widths.d, widths.t, widths.v if fine else None)


def _load(own: Inversion, d: int | None, t: int | None, v: int | None = None) -> Network:
    """Return the network of weights for an encoder's widths, as far as they are known."""
    file = own.file
    if not file.is_file():
        raise ModelError(
            f"There is no file {file} with the weights of φ. Give another: "
            f"--set search.{own.name}.phi=FILE"
        )
    status = file.stat()
    found = _loaded(file.absolute(), (status.st_size, status.st_mtime_ns, status.st_ino), d, t, v)
    if type(found).__name__ != own.network:
        raise ModelError(
            f"{file} holds a network {type(found).__name__}, but {own.name} is of the kind "
            f"{own.network}. Give other weights with --set search.{own.name}.phi=FILE, or choose "
            "the method that these are of."
        )
    return found


@functools.lru_cache(maxsize=4)
def _loaded(
    file: Path, state: tuple[int, ...], d: int | None, t: int | None, v: int | None
) -> Network:
    from pipeline.models.inversion import checkpoints

    return checkpoints.load(file, d, t, v)


def header(kind: type[Inversion], run: Run) -> dict[str, Any]:
    """Return φ's identity and how prompts are made; the encoder's stands beside every clue."""
    own = section(run.config, kind, run.dataset.name)
    form = prompts.load(own.prompt).form(run.dataset.name)
    return {"phi": model_identity(str(own.file)), "prompt": form.model_dump()}


def plan(kind: type[Inversion], run: Run) -> dict[str, int]:
    """Return how many images become pseudo-words, and how many prompts with them are embedded."""
    own = section(run.config, kind, run.dataset.name)
    form = prompts.load(own.prompt).form(run.dataset.name)
    asked = sum(len(form.texts(query.relative_captions)) for query in run.queries)
    images = {name for query in run.queries for name in query.references}
    return {
        f"images as pseudo-words of {own.name}": len(images),
        f"prompts with pseudo-words of {own.name}": asked,
    }


def vectors(kind: type[Inversion], clues: Clues) -> Tensor:
    """Return the normalised features (queries, d) of the prompts with pseudo-words.

    A query with a prompt for either order of its relative captions has the mean of both. Raises
    ConfigError for a prompt that does not fit, ModelError for weights that do not.
    """
    import torch

    source = clues.source
    own = source.settings(kind)
    form = prompts.load(own.prompt).form(source.dataset)
    encoder = source.encoder()
    with torch.inference_mode():
        words = pseudo_words(own, source, encoder)
        asked = [
            (query, text)
            for query, parts in enumerate(source.texts("relative_parts"))
            for text in form.texts([part for part in parts if part])
        ]
        features = normalise(_encode(source, encoder, form.template, asked, words))
    rows = torch.tensor([query for query, _ in asked])
    total = torch.zeros(source.count, features.shape[1]).index_add_(0, rows, features)
    return normalise(total)


def pseudo_words(own: Inversion, source: Source, encoder: Clip) -> Sequence[Sequence[Words]]:
    """Return the pseudo-words of each query's reference images, those that could be read."""
    import torch

    from pipeline.models.inversion.networks import FineGrained
    from pipeline.models.inversion.prompts import token_width

    shown = source.reference_lists()
    references = torch.cat(shown)
    phi = _load(own, references.shape[1], token_width(encoder.model)).to(encoder.device)
    if isinstance(phi, FineGrained):
        return _fine_grained(phi, source, encoder, shown)
    parts = torch.split(references, encoder.batch)
    words = torch.cat([phi(part.to(encoder.device)) for part in parts])
    each = iter(words[:, None])
    return [[{"words": next(each)} for _ in own] for own in shown]


def _fine_grained(
    phi: FineGrained, source: Source, encoder: Clip, shown: Sequence[Tensor]
) -> Sequence[Sequence[Words]]:
    """Return a subject and some attributes a reference image, from the image tower's tokens."""
    import torch

    from pipeline.models.inversion.towers import image_tokens

    found: list[dict[int, Words]] = [{} for _ in shown]
    for places, prepared in source.pictures():
        tokens = image_tokens(encoder, prepared)
        features = torch.stack([shown[query][place] for (query, place), *_ in places])
        subjects, attributes, counts = phi(features.to(encoder.device), tokens)
        for row, same in enumerate(places):
            subject, others = subjects[row, None], attributes[row, : counts[row]]
            both = torch.cat([subject, others])
            for query, place in same:
                found[query][place] = {"words": both, "subject": subject, "attributes": others}
    return [[own[place] for place in sorted(own)] for own in found]


def _encode(
    source: Source,
    encoder: Clip,
    template: str,
    asked: list[tuple[int, str]],
    words: Sequence[Sequence[Words]],
) -> Tensor:
    """Return the text features (prompts, d) of ``asked``, each a query's place and its text.

    Where a query has several images, those of one kind stand one behind the other, joined by "and".
    """
    import torch

    from pipeline.models.inversion.prompts import Prompt, Tokenizer, assemble, encode

    tokenizer = Tokenizer(encoder.tokenizer)
    names = prompts.places(template)

    def prompt(query: int, text: str) -> tuple[Prompt, list[Tensor]]:
        own = words[query]
        runs = [image[name] for name in names for image in own]
        several = " and ".join(["{words}"] * len(own)) or NOTHING
        filled = prompts.with_words(template, several)
        return assemble(tokenizer, filled, text, [len(run) for run in runs]), runs

    try:
        made = [prompt(query, text) for query, text in asked]
    except ValueError as error:
        raise ConfigError(f"The inversion prompt {template!r} cannot be used: {error}.") from None
    cut = sum(one.cut > 0 for one, _ in made)
    if cut:
        source.note(
            f"{cut} of {len(made)} prompts with pseudo-words were too long for the encoder's "
            f"{tokenizer.context} tokens: the ends of their relative captions were cut."
        )
    if lost := sum(not own for own in words):
        source.note(f"{lost} reference images could not be read: {NOTHING!r} stands for them.")
    found = []
    for start in range(0, len(made), encoder.batch):
        batch, runs = zip(*made[start : start + encoder.batch], strict=True)
        put = [run for own in runs for run in own]
        found.append(encode(encoder.model, tokenizer, batch, put).float().cpu())
    return torch.cat(found)


def _register(kind: type[Inversion]) -> None:
    clue(
        kind.name,
        by_model=True,
        settings=kind,
        header=functools.partial(header, kind),
        check=functools.partial(check, kind),
        training="trained",
        looks=kind.network == "FineGrained",
        plan=functools.partial(plan, kind),
    )(functools.partial(vectors, kind))


for _kind in (Lincir, Searle, Pic2word, Fti4cir):
    _register(_kind)

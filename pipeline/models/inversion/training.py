"""LinCIR's training of φ from texts alone (self-masking projection, arXiv 2312.01998).

A text's feature e, with noise, goes through φ; the pseudo-word takes the place of the text's
keywords, and the frozen text tower's feature of that should be e again. No image is seen.
"""

import functools
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.models.inversion import corpus as corpora
from pipeline.models.inversion.corpus import Corpus, Masking
from pipeline.models.inversion.networks import Phi
from pipeline.models.inversion.prompts import Prompt, Tokenizer, encode, token_width
from pipeline.models.training import loop
from pipeline.models.training import settings as training
from pipeline.models.training.loop import Trained

KEPT_TEXTS = 200_000
"""Texts whose tokens are kept in memory."""


class Settings(training.Settings):
    """How φ is trained; the defaults are LinCIR's published values, but for the seed."""

    noise_scale: float = Field(
        default=1.0,
        ge=0,
        le=1_000_000,
        description="of a text's noise; 1 as published",
    )
    """Noise is u·N(0, I) times this, u uniform in [0, 1] for each text; features are raw, so an
    encoder whose features are of another length needs another scale."""
    dropout: float = Field(default=0.5, ge=0, lt=1, description="in φ")
    masking: Masking = Field(default="auto", description="how keywords are found")


class Masked:
    """Texts as the text tower is given them: whole, and with places for the pseudo-word."""

    def __init__(
        self,
        texts: list[str],
        tokenizer: Tokenizer,
        find: Callable[[str], corpora.Spans],
        seed: int,
    ) -> None:
        self.texts, self._tokenizer, self._find, self._seed = texts, tokenizer, find, seed
        self._filler = tokenizer.pieces("word")[0]
        self._plain = tokenizer.pieces("a photo of")
        self.prompts = functools.lru_cache(KEPT_TEXTS)(self._prompts)

    def _prompts(self, place: int) -> tuple[Prompt, Prompt]:
        """Return the text as it is, and with its keywords as places; both end where room ends."""
        text, room = self.texts[place], self._tokenizer.room
        rng = random.Random(f"{self._seed} {place}")
        whole = Prompt(tuple(self._tokenizer.pieces(text)[:room]), ())
        tokens: list[int] = []
        places: list[int] = []
        for piece in corpora.masked(text, self._find(text), rng):
            if piece is None:
                places.append(len(tokens))
                tokens.append(self._filler)
            else:
                tokens += self._tokenizer.pieces(piece)
        places = [at for at in places if at < room]
        if not places:
            tokens, places = [*self._plain, self._filler], [len(self._plain)]
        return whole, Prompt(tuple(tokens[:room]), tuple(places))


class Lincir(loop.Task):
    """φ and the frozen text tower that it learns to be read by."""

    name = "lincir"

    def __init__(
        self, model: Any, tokenizer: Any, encoder: dict[str, Any], corpus: Corpus, own: Settings
    ) -> None:
        self.settings = own
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = Tokenizer(tokenizer)
        masking, find = corpora.masker(own.masking)
        self.texts = Masked(corpus.texts, self.tokenizer, find, own.seed)
        self.items = len(corpus.texts)
        self.order = loop.Order(self.items, own.batch, own.seed)
        d, t = self._features([self.texts.prompts(0)[0]]).shape[1], token_width(model)
        self.identity = {
            "masking": masking,
            "encoder": encoder,
            "texts": self.items,
            "corpus": corpus.identity,
            "d": d,
            "t": t,
        }
        weight = next(iter(model.parameters()))
        if weight.dtype == torch.half:
            self.enlarged = 2.0 ** round(math.log2(own.batch * d))
        torch.manual_seed(own.seed)
        self.module = Phi(d, t, dropout=own.dropout).to(weight.device).train()

    def _features(self, prompts: list[Prompt]) -> Tensor:
        """Return raw features of texts (n, d), float32, without gradients."""
        with torch.no_grad():
            return encode(self.model, self.tokenizer, prompts, []).float()

    def batch(self, number: int) -> list[tuple[Prompt, Prompt]]:
        """Return the prompts of a batch, whole and masked."""
        return [self.texts.prompts(place) for place in self.order.of(number)]

    def losses(self, batch: list[tuple[Prompt, Prompt]]) -> dict[str, Tensor]:
        """Return the mean squared error of the masked texts' features, over batch and width."""
        wholes, masked = zip(*batch, strict=True)
        target = self._features(list(wholes))
        scale = self.settings.noise_scale * torch.rand(len(target), 1, device=target.device)
        words = self.module(target + scale * torch.randn_like(target))
        placed = [word.expand(len(p.places), -1) for word, p in zip(words, masked, strict=True)]
        found = encode(self.model, self.tokenizer, list(masked), placed).float()
        return {"mean squared error": nn.functional.mse_loss(found, target)}


def train(
    model: Any,
    tokenizer: Any,
    encoder: dict[str, Any],
    corpus: Corpus,
    out: Path,
    settings: Settings,
    half: bool = False,
) -> Trained:
    """Train φ for open_clip's frozen ``model`` and write it to ``out``; see ``loop.train``.

    ``encoder`` identifies the model in the configuration that the file holds.
    """
    loop.check(settings, len(corpus.texts), out, "texts")
    task = Lincir(model, tokenizer, encoder, corpus, settings)
    record = {"left_out_of_the_corpus": dict(corpus.left_out)}
    return loop.train(task, out, settings, half, record=record)

"""LinCIR's φ from texts alone: self-masking projection (arXiv 2312.01998).

A text's feature e, with noise, goes through φ; the pseudo-word takes the place of the text's
keywords, and the frozen text tower's feature of that should be e again. No image is seen.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipeline.models.training import settings as training
from pipeline.models.training.task import Order, Task, enlarged
from pipeline.recipes.base import Given, Preset, Recipe, Source

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.inversion.corpus import Corpus, Spans
    from pipeline.models.inversion.prompts import Prompt, Tokenizer

KEPT_TEXTS = 200_000
"""Texts whose tokens are kept in memory."""
SOURCE = "the authors' training script (navervision/lincir); the paper trains for as long"


class Settings(training.Settings):
    """How φ is trained; the defaults are LinCIR's published values, but for the seed."""

    noise_scale: float = Field(
        default=1.0, ge=0, le=1_000_000, description="of a text's noise; 1 is for CLIP's lengths"
    )
    """Noise is u·N(0, I) times this, u uniform in [0, 1] for each text; features are raw, so an
    encoder whose features are of another length needs another scale."""
    dropout: float = Field(default=0.5, ge=0, lt=1, description="in φ")
    masking: str = Field(
        default="auto",
        pattern="^(auto|words|spacy(:.+)?)$",
        description="keywords by spacy (en_core_web_sm), spacy:PIPELINE, or words: all but "
        "function words; auto: by what is there",
    )


class Masked:
    """Texts as the text tower is given them: whole, and with places for the pseudo-word."""

    def __init__(
        self,
        texts: list[str],
        tokenizer: Tokenizer,
        find: Callable[[str], Spans],
        seed: int,
    ) -> None:
        self.texts, self._tokenizer, self._find, self._seed = texts, tokenizer, find, seed
        self._filler = tokenizer.pieces("word")[0]
        self._plain = tokenizer.pieces("a photo of")
        self.prompts = functools.lru_cache(KEPT_TEXTS)(self._prompts)

    def _prompts(self, place: int) -> tuple[Prompt, Prompt]:
        """Return the text as it is, and with its keywords as places; both end where room ends."""
        from pipeline.models.inversion import corpus
        from pipeline.models.inversion.prompts import Prompt

        text, room = self.texts[place], self._tokenizer.room
        spans = self._find(text)
        whole = Prompt(tuple(self._tokenizer.pieces(text)[:room]), ())
        tokens: list[int] = []
        places: list[int] = []
        if not spans:  # a random word; a generator is seeded only where it is needed
            spans = [corpus.any_word(text, random.Random(f"{self._seed} {place}"))]
        for piece in corpus.masked(text, spans):
            if piece is None:
                places.append(len(tokens))
                tokens.append(self._filler)
            else:
                tokens += self._tokenizer.pieces(piece)
        places = [at for at in places if at < room]
        if not places:
            tokens, places = [*self._plain, self._filler], [len(self._plain)]
        return whole, Prompt(tuple(tokens[:room]), tuple(places))


class Lincir(Task):
    """φ and the frozen text tower that it learns to be read by."""

    name = "lincir"

    def __init__(
        self, model: Any, tokenizer: Any, encoder: dict[str, Any], corpus: Corpus, own: Settings
    ) -> None:
        import torch

        from pipeline.models.inversion.corpus import masker
        from pipeline.models.inversion.networks import Phi
        from pipeline.models.inversion.prompts import Tokenizer, token_width

        self.settings = own
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = Tokenizer(tokenizer)
        masking, find = masker(own.masking)
        self.texts = Masked(corpus.texts, self.tokenizer, find, own.seed)
        self.items = len(corpus.texts)
        self.order = Order(self.items, own.batch, own.seed)
        d, t = self._features([self.texts.prompts(0)[0]]).shape[1], token_width(model)
        self.identity = {
            "masking": masking,
            "encoder": encoder,
            "texts": self.items,
            "corpus": corpus.identity,
            "d": d,
            "t": t,
        }
        self.record = {"left_out_of_the_corpus": dict(corpus.left_out)}
        weight = next(iter(model.parameters()))
        self.enlarged = enlarged(weight, own.batch * d)
        torch.manual_seed(own.seed)
        self.module = Phi(d, t, dropout=own.dropout).to(weight.device).train()

    def _features(self, prompts: list[Prompt]) -> Tensor:
        """Return raw features of texts (n, d), float32, without gradients."""
        import torch

        from pipeline.models.inversion.prompts import encode

        with torch.no_grad():
            return encode(self.model, self.tokenizer, prompts, []).float()

    def batch(self, number: int) -> list[tuple[Prompt, Prompt]]:
        """Return the prompts of a batch, whole and masked."""
        return [self.texts.prompts(place) for place in self.order.of(number)]

    def losses(self, batch: list[tuple[Prompt, Prompt]]) -> dict[str, Tensor]:
        """Return the mean squared error of the masked texts' features, over batch and width."""
        import torch

        from pipeline.models.inversion.prompts import encode

        wholes, masked = zip(*batch, strict=True)
        target = self._features(list(wholes))
        scale = self.settings.noise_scale * torch.rand(len(target), 1, device=target.device)
        words = self.module(target + scale * torch.randn_like(target))
        placed = [word.expand(len(p.places), -1) for word, p in zip(words, masked, strict=True)]
        found = encode(self.model, self.tokenizer, list(masked), placed).float()
        return {"mean squared error": torch.nn.functional.mse_loss(found, target)}


def make(given: Given) -> Lincir:
    """Return the task of a text file; raises InputError for a corpus that cannot be used."""
    file = given.file("texts")
    from pipeline.models.inversion import corpus
    from pipeline.models.training import loop
    from pipeline.run import log
    from pipeline.stages import embeddings

    settings = given.settings
    assert isinstance(settings, Settings)
    found = corpus.read(file)
    count, said = f"{len(found.texts):,}", corpus.said(found.left_out)
    log.info("[train lincir] %s texts of %s (%s)", count, file, said)
    loop.check(settings, len(found.texts), given.out, "texts")
    masking, _ = corpus.masker(settings.masking)  # refused before an encoder is loaded
    log.info("[train lincir] finds keywords by %s", masking)
    clip = given.encoder()
    encoder = embeddings.identity(given.config)
    return Lincir(clip.model, clip.tokenizer, encoder, found, settings)


def _preset(model: str, pretrained: str, **values: Any) -> Preset:
    encoder = {"clip.model": model, "clip.pretrained": pretrained}
    unstated = "The values are stated for all backbones alike"
    return Preset(SOURCE, {"seed": 12345} | values, encoder | {"clip.target_pad": None}, unstated)


RECIPE = Recipe(
    "lincir",
    """Train LinCIR's φ from texts alone: a text file, JSON lines, or a caption stage's file.

    A text's feature is to be found again from the text in which the pseudo-word stands for its
    keywords. Large encoders overfit: validate several checkpoints.

    Example: seize train lincir --texts captions.txt --config paper-l14 --out phi.safetensors
    """,
    Settings,
    (Source("texts", "one text a line, or JSON lines with `text` or `captions`"),),
    make,
    {
        "lincir-l14": _preset("ViT-L-14", "openai"),
        "lincir-h14": _preset("ViT-H-14", "laion2b_s32b_b79k"),
        # Their users saw it overfit within hundreds of steps (navervision/lincir, issue 15).
        "lincir-bigg": _preset("ViT-bigG-14", "laion2b_s39b_b160k", every=100),
    },
    weights="search.lincir.phi",
    method="lincir",
)

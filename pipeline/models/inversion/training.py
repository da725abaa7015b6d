"""LinCIR's training of φ from texts alone (self-masking projection, arXiv 2312.01998).

A text's feature e, with noise, goes through φ; the pseudo-word takes the place of the text's
keywords, and the frozen text tower's feature of that should be e again. No image is seen.
"""

import functools
import json
import math
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.errors import ConfigError, InputError, ModelError
from pipeline.models.inversion import corpus as corpora
from pipeline.models.inversion.corpus import Corpus, Masking
from pipeline.models.inversion.networks import Phi
from pipeline.models.inversion.prompts import Prompt, Tokenizer, encode, token_width
from pipeline.run import log, progress
from pipeline.store.files import atomic, lock, write_json

LOGGED = 50
"""Steps whose losses are averaged to one point of the curve."""
KEPT_TEXTS = 200_000
"""Texts whose tokens are kept in memory."""


@dataclass(frozen=True)
class Settings:
    """How φ is trained; the defaults are LinCIR's published values, but for the seed."""

    steps: int = 20_000
    batch: int = 512
    rate: float = 1e-4
    weight_decay: float = 0.01
    warmup: int = 0
    """Steps over which the rate rises from nothing; it is constant then."""
    noise_scale: float = 1.0
    """Noise is u·N(0, I) times this, u uniform in [0, 1] for each text; features are raw, so an
    encoder whose features are of another length needs another scale."""
    dropout: float = 0.5
    seed: int = 0
    masking: Masking = "auto"
    every: int = 1000
    """Steps between checkpoints."""


FREE = {"steps", "every"}
"""Settings that a training may go on with after others."""


@dataclass(frozen=True)
class Trained:
    """What a training did."""

    file: Path
    steps: int
    computed: int
    """Steps of this run; the others were there."""
    loss: float | None
    """The mean over the last steps."""


def folder_of(out: Path) -> Path:
    """Return where the checkpoints, the curve and the record of a training are."""
    return out.with_suffix(".training")


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


def train(
    model: Any,
    tokenizer: Any,
    encoder: dict[str, Any],
    corpus: Corpus,
    out: Path,
    settings: Settings,
    half: bool = False,
) -> Trained:
    """Train φ for open_clip's frozen ``model`` and write it to ``out`` as safetensors.

    ``encoder`` identifies the model in the configuration that the file holds; ``half`` writes
    float16. A stopped training resumes from its last checkpoint, to the same weights on one device.
    Raises ConfigError for settings that cannot be used or differ from those it was begun with,
    InputError for a corpus that is too small, ModelError where the loss is no number any more.
    """
    check(settings, corpus, out)
    with lock(folder_of(out) / "state.pt"):
        return _Training(model, tokenizer, encoder, corpus, out, settings, half).run()


def check(settings: Settings, corpus: Corpus, out: Path) -> None:
    """Raise ConfigError for another kind of file, InputError for fewer texts than a batch."""
    if out.suffix != ".safetensors":
        raise ConfigError(f"--out {out}: φ is written as safetensors; end the name so.")
    if len(corpus.texts) < settings.batch:
        raise InputError(
            f"{len(corpus.texts):,} texts are fewer than a batch of {settings.batch:,}. Give more "
            "texts, or a smaller --batch."
        )


class _Training:
    """The state of one training."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        encoder: dict[str, Any],
        corpus: Corpus,
        out: Path,
        settings: Settings,
        half: bool,
    ) -> None:
        self.settings, self.out, self.half = settings, out, half
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = Tokenizer(tokenizer)
        masking, find = corpora.masker(settings.masking)
        self.texts = Masked(corpus.texts, self.tokenizer, find, settings.seed)
        self.weight = next(iter(model.parameters()))
        d = self._features([self.texts.prompts(0)[0]]).shape[1]
        chosen = {name: value for name, value in asdict(settings).items() if name not in FREE}
        self.header = chosen | {
            "method": "lincir",
            "masking": masking,
            "encoder": encoder,
            "texts": len(corpus.texts),
            "corpus": corpus.identity,
            "d": d,
            "t": token_width(model),
        }
        self.left_out = dict(corpus.left_out)
        torch.manual_seed(settings.seed)
        phi = Phi(d, self.header["t"], dropout=settings.dropout)
        self.phi = phi.to(self.weight.device).train()
        self.optimizer = torch.optim.AdamW(
            self.phi.parameters(), lr=settings.rate, weight_decay=settings.weight_decay
        )
        self.step, self.seconds = 0, 0.0
        self.losses: list[tuple[int, float]] = []
        self._recent: list[float] = []
        self._order: tuple[int, list[int]] = (-1, [])

    @property
    def folder(self) -> Path:
        return folder_of(self.out)

    def run(self) -> Trained:
        """Train what is missing; see ``train``."""
        self._resume()
        begun, start = self.step, time.monotonic()
        earlier = self.seconds
        if begun:
            log.info("[train lincir] goes on from step %s", f"{begun:,}")
        with progress(self.settings.steps, begun, "step", "train φ") as bar:
            while self.step < self.settings.steps:
                self._advance()
                self.seconds = earlier + time.monotonic() - start
                bar.update(1)
                if self.step % self.settings.every == 0:
                    self._save()
        if self.step > begun and self.step % self.settings.every:
            self._save()
        self._write_result()
        loss = self.losses[-1][1] if self.losses else None
        return Trained(self.out, self.step, self.step - begun, loss)

    def _features(self, prompts: list[Prompt]) -> Tensor:
        """Return raw features of texts (n, d), float32, without gradients."""
        with torch.no_grad():
            return encode(self.model, self.tokenizer, prompts, []).float()

    def _batch(self) -> list[tuple[Prompt, Prompt]]:
        """Return the prompts of the next step: every text once an epoch, in an order by seed."""
        size, count = self.settings.batch, len(self.texts.texts)
        made = []
        for at in range(self.step * size, (self.step + 1) * size):
            epoch, place = divmod(at, count)
            if self._order[0] != epoch:
                order = list(range(count))
                random.Random(f"{self.settings.seed} epoch {epoch}").shuffle(order)
                self._order = epoch, order
            made.append(self.texts.prompts(self._order[1][place]))
        return made

    def _advance(self) -> None:
        """Do one step; everything random in it depends on seed and step alone."""
        settings = self.settings
        wholes, masked = zip(*self._batch(), strict=True)
        torch.manual_seed(settings.seed * 1_000_003 + self.step + 1)
        target = self._features(list(wholes))
        scale = settings.noise_scale * torch.rand(len(target), 1, device=target.device)
        words = self.phi(target + scale * torch.randn_like(target))
        placed = [word.expand(len(p.places), -1) for word, p in zip(words, masked, strict=True)]
        loss = nn.functional.mse_loss(
            encode(self.model, self.tokenizer, list(masked), placed).float(), target
        )
        # Gradients of a mean over so many numbers would vanish in half precision.
        larger = 2.0 ** round(math.log2(target.numel())) if self.weight.dtype == torch.half else 1.0
        self.optimizer.zero_grad()
        (loss * larger).backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in self.phi.parameters() if p.grad is not None]
        torch._foreach_div_(gradients, larger)
        if not math.isfinite(value := loss.item()) or not _finite(gradients):
            raise self._broken(value)
        rising = min(1.0, (self.step + 1) / settings.warmup) if settings.warmup else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate * rising
        self.optimizer.step()
        self.step += 1
        self._recent.append(value)
        if self.step % LOGGED == 0 or self.step == settings.steps:
            self.losses.append((self.step, sum(self._recent) / len(self._recent)))
            self._recent = []

    def _broken(self, value: float) -> ModelError:
        kept = sorted(self.folder.glob("step-*.safetensors"))
        last = f"The last good checkpoint is {kept[-1]}" if kept else "There is no checkpoint yet"
        what = "gradient" if math.isfinite(value) else "loss"
        return ModelError(
            f"The {what} is no finite number at step {self.step + 1:,}. {last}. Try a lower "
            "--rate, or --set clip.precision=float32, with another --out."
        )

    def _resume(self) -> None:
        file = self.folder / "state.pt"
        if not file.exists():
            return
        try:
            state = torch.load(file, map_location=self.weight.device, weights_only=True)
            header = json.loads(state["header"])
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{file} cannot be read ({reason}). Delete it to train anew."
            ) from None
        own = json.loads(json.dumps(self.header))
        if changed := [name for name in own if header.get(name) != own[name]]:
            name = changed[0]
            raise ConfigError(
                f"{self.folder} was begun with {name} {header.get(name)!r}, not {own[name]!r}. "
                "Give another --out, or remove that folder."
            )
        if state["step"] > self.settings.steps:
            raise ConfigError(
                f"{self.folder} has {state['step']:,} steps already, more than --steps "
                f"{self.settings.steps:,}. Its checkpoints are there by step."
            )
        self.phi.load_state_dict(state["phi"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.losses = [(int(step), float(loss)) for step, loss in state["losses"]]
        self._recent = list(state["recent"])

    def _save(self) -> None:
        """Write a checkpoint and all that is needed to go on from it."""
        weights = self.phi.state_dict()
        if not _finite(list(weights.values())):
            raise self._broken(math.nan)
        write_weights(self._checkpoint, weights, self._configuration, half=False)
        state = {
            "header": json.dumps(self.header),
            "phi": weights,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
            "recent": self._recent,
        }
        with atomic(self.folder / "state.pt") as temporary:
            torch.save(state, temporary)

    @property
    def _checkpoint(self) -> Path:
        return self.folder / f"step-{self.step:09}.safetensors"

    @property
    def _configuration(self) -> dict[str, Any]:
        return self.header | {"step": self.step}

    def _write_result(self) -> None:
        write_weights(self.out, self.phi.state_dict(), self._configuration, self.half)
        record = self._configuration | {
            "left_out_of_the_corpus": self.left_out,
            "seconds": round(self.seconds),
            "device": str(self.weight.device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "losses": [(step, round(loss, 6)) for step, loss in self.losses],
        }
        write_json(self.folder / "training.json", record)
        draw(self.losses, self.folder / "loss.png")


def _finite(tensors: list[Tensor]) -> bool:
    return bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all())


def write_weights(
    file: Path, weights: dict[str, Tensor], configuration: dict[str, Any], half: bool
) -> None:
    """Write φ's weights with how they were made, completely or not at all."""
    dtype = torch.float16 if half else torch.float32
    stored = {name: value.detach().cpu().to(dtype).contiguous() for name, value in weights.items()}
    with atomic(file) as temporary:
        save_file(stored, temporary, {"configuration": json.dumps(configuration)})


def draw(losses: list[tuple[int, float]], file: Path) -> None:
    """Write the loss by step as a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*zip(*losses, strict=True) if losses else ([], []))
    axes.set(xlabel="step", ylabel="mean squared error", yscale="log")
    axes.grid(alpha=0.3)
    with atomic(file) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))  # type: ignore[no-untyped-call]

"""Textual inversion: its speed, and on the demo the gap that φ has to bridge.

``make bench ARGS=inversion``. Speed: queries with pseudo-words of random reference features, beside
the text tower alone on the same prompts with a plain word instead, in one run; ``--size full`` does
so for the 123,403 images of CIRCO's gallery at ViT-L-14's shapes with random weights. Gap: φ is
trained on features of texts and given those of images. The last table needs ``make demo`` first.
"""

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline import config, datasets
from pipeline.config import Config
from pipeline.demo import world
from pipeline.demo.training import said
from pipeline.models.inversion import checkpoints, towers
from pipeline.models.inversion.networks import Phi
from pipeline.models.inversion.prompts import Prompt, Tokenizer, encode
from pipeline.records import Ranking
from pipeline.retrieval import methods
from pipeline.retrieval.clues import Clues
from pipeline.retrieval.clues.inversion import Lincir
from pipeline.retrieval.scoring import normalise
from pipeline.retrieval.sections import Kind, section
from pipeline.run import Run
from pipeline.stages.inputs import Inputs
from tests.benchmarks.report import Size, table

COUNTS = {"small": 2048, "full": 123_403}
ROUNDS = 3
SCENES = 1000
TEXT = "has four red stars instead of two"


class References:
    """Queries of random reference features, each with the same change, as a clue's source."""

    dataset, normalise_texts = "circo", False

    def __init__(self, settings: Config, clip: Any, features: Tensor) -> None:
        self._settings, self._clip, self._features = settings, clip, features
        self.count = len(features)

    def settings(self, kind: type[Kind]) -> Kind:
        """Return a section of the configuration."""
        return section(self._settings, kind, self.dataset)

    def encoder(self) -> Any:
        """Return the encoder."""
        return self._clip

    def reference_lists(self) -> list[Tensor]:
        """Return one feature a query."""
        return list(self._features[:, None])

    def texts(self, kind: str) -> Sequence[Sequence[str]]:
        """Return one change a query."""
        return [[TEXT]] * self.count

    def computed(self, clue: Any, make: Callable[[], Tensor]) -> Tensor:
        """Return a clue, made now."""
        return make()


def setting(size: Size, folder: Path) -> tuple[Config, Any, int]:
    """Return a configuration, its encoder and d: the demo's, or ViT-L-14 with random weights."""
    if size == "small":
        demo = config.load("demo", {"search.lincir.prompt": "lincir"})
        return demo, towers.load(demo.clip, demo.runtime), 128
    import open_clip

    weights, phi = folder / "clip.pt", folder / "phi.safetensors"
    torch.save(open_clip.create_model("ViT-L-14").state_dict(), weights)
    save_file(Phi(768, 768).state_dict(), phi)
    given = {"clip.pretrained": str(weights), "search.lincir.phi": str(phi)}
    settings = config.load("lincir-l14", given)
    return settings, towers.load(settings.clip, settings.runtime), 768


def speed(size: Size) -> str:
    """Return the table of queries a second: the text tower alone, and with pseudo-words."""
    count = COUNTS[size]
    with tempfile.TemporaryDirectory() as folder:
        settings, clip, d = setting(size, Path(folder))
        source: Any = References(settings, clip, torch.randn(count, d))
        tokenizer = Tokenizer(clip.tokenizer)
        plain = [f"a photo of something that {TEXT}"] * count

        def whole() -> None:
            for start in range(0, count, clip.batch):
                clip.texts(plain[start : start + clip.batch])

        def shortened() -> None:
            with torch.inference_mode():
                for start in range(0, count, clip.batch):
                    texts = plain[start : start + clip.batch]
                    prompts = [Prompt(tuple(tokenizer.pieces(text)), ()) for text in texts]
                    encode(clip.model, tokenizer, prompts, []).float().cpu()

        def inverted() -> None:
            Clues(source).vectors("lincir")

        ways = {
            "text tower alone, whole context": whole,
            "text tower alone, shortened": shortened,
            "pseudo-words and prompts with them": inverted,
        }
        spent: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS if size == "small" else 1):
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                spent[name].append(time.perf_counter() - start)
    best = {name: count / min(times) for name, times in spent.items()}
    own = best["pseudo-words and prompts with them"]
    rows = [(name, f"{rate:,.0f}", f"{own / rate:.2f}") for name, rate in best.items()]
    title = f"{count:,} queries, {settings.clip.model}, the best of {ROUNDS} rounds in one run:"
    return table(title, ("what", "queries a second", "pseudo-words' share of it"), rows)


def gap() -> Iterator[str]:
    """Yield how the demo's features of texts and of images differ, and what φ makes of either."""
    demo = config.load("demo", {"runtime.workers": 0})
    clip = towers.load(demo.clip, demo.runtime)
    phi = checkpoints.load(section(demo, Lincir, "circo").file, None, None)
    rng = random.Random(5)
    scenes = [world.training_scene(rng) for _ in range(SCENES)]
    prepared = [clip.prepare(world.render(scene, rng.getrandbits(32))) for scene in scenes]
    images = torch.from_numpy(clip.images(torch.stack(prepared)))
    made = {
        "image": images,
        "its whole description": texts(clip, [scene.text() for scene in scenes]),
        "one as φ is trained on": texts(clip, [said(scene, rng) for scene in scenes]),
        "`a photo of` + whole": texts(clip, [f"a photo of {scene.text()}" for scene in scenes]),
    }
    rows = []
    for name, features in made.items():
        unit = normalise(features)
        cosine = (unit * normalise(images)).sum(dim=1).mean()
        found = recall(features, images)
        words = recall(alone(clip, phi, features), images)
        rows.append(
            (
                *(name, f"{features.norm(dim=1).mean():.1f}", f"{unit.mean(dim=0).norm():.2f}"),
                *(f"{cosine:.2f}", f"{found:.1f}", f"{words:.1f}"),
            )
        )
    columns = ("feature of", "length", "of the mean direction", "cosine to the image")
    more = ("finds the image, %", "as pseudo-word alone, %")
    yield table(f"{SCENES:,} scenes of the demo's world:", (*columns, *more), rows)
    if not Path("data/demo").exists():
        return
    rows = []
    shift = made["one as φ is trained on"].mean(dim=0) - images.mean(dim=0)
    for prompt in ("lincir", "demo"):
        plain, moved = (f"{circo(prompt, by):.2f}" for by in (torch.zeros(128), shift))
        rows.append((f"`{prompt}`", plain, moved))
    columns = ("prompt", "mAP@5", "with the images' mean moved to the texts'")
    yield table("`lincir` on the val split of the demo's CIRCO:", columns, rows)


def texts(clip: Any, said: list[str]) -> Tensor:
    """Return raw features of texts."""
    found: Tensor = torch.from_numpy(clip.texts(said))
    return found


def alone(clip: Any, phi: Any, features: Tensor) -> Tensor:
    """Return features of prompts that are a pseudo-word and nothing else."""
    tokenizer = Tokenizer(clip.tokenizer)
    prompt = Prompt((tokenizer.pieces("word")[0],), (0,))
    with torch.inference_mode():
        return encode(clip.model, tokenizer, [prompt] * len(features), [phi(features)]).float()


def recall(queries: Tensor, images: Tensor) -> float:
    """Return how often the own image is the first, in percent."""
    first = (normalise(queries) @ normalise(images).T).argmax(dim=1)
    return 100 * float((first == torch.arange(len(images))).float().mean())


class Moved(Inputs):
    """A run's features, those of reference images moved."""

    by: Tensor

    def reference_lists(self) -> list[Tensor]:
        """Return them moved by ``by``."""
        return [features + self.by for features in super().reference_lists()]


def circo(prompt: str, by: Tensor) -> float:
    """Return mAP@5 of ``lincir`` with a prompt, reference features moved ``by`` (d)."""
    settings = config.load("demo", {"search.method": "lincir", "search.lincir.prompt": prompt})
    run = Run(datasets.load("circo", "val", Path("data/demo")), settings, Path("cache"), Path("."))
    source = Moved(run, making=True)
    source.by = by
    queries = methods.find("lincir").score(Clues(source)).positive
    unit = normalise(torch.from_numpy(source.images.all()).float())
    scores = (queries @ unit.T).numpy()
    names = np.array(source.images.names)
    rankings = []
    for query, row in zip(run.queries, scores, strict=True):
        best = [i for i in np.argsort(-row)[:51] if names[i] != query.reference][:50]
        rankings.append(Ranking(query.id, tuple(names[best]), tuple(row[best].tolist())))
    return run.dataset.evaluate(run.dataset.predictions(rankings))["mAP@5"]


def tables(size: Size) -> Iterator[str]:
    """Yield the benchmark's tables."""
    yield speed(size)
    yield from gap()

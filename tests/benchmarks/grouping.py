"""Which pictures are near-duplicates to the demo's encoder: copies, and pictures one edit apart.

``make bench ARGS=grouping``, and ``python -m tests.benchmarks.grouping FOLDER --config …`` for
another encoder and pictures of one's own. The default of ``own.group_at`` comes from it: copies of
a picture that was saved, resized or cut again should be grouped, and pictures that one edit tells
apart (what is searched for here) should not.
"""

import io
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import click
import torch
from PIL import Image
from torch import Tensor

from pipeline import config
from pipeline.demo import world
from pipeline.demo.build import neighbour
from pipeline.images.files import endings, open_image
from pipeline.models import encoders
from pipeline.models.decode import stacked
from pipeline.own.grouping import group
from pipeline.retrieval.scoring import normalise
from tests.benchmarks.report import Size, table

PICTURES = {"small": 100, "full": 1_000}
PLACES = {"small": (100, 1_000), "full": (100, 1_000, 10_000, 50_000)}
SEED = 11
AT = (0.99, 0.999, 0.9995, 0.9999)
Change = Callable[[Image.Image], Image.Image]


def saved(quality: int) -> Change:
    """Return what saves an image as JPEG."""

    def change(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "jpeg", quality=quality)
        return Image.open(buffer).convert("RGB")

    return change


def resized(factor: float) -> Change:
    """Return what makes an image larger or smaller."""
    return lambda image: image.resize(
        (round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC
    )


def cut(share: float) -> Change:
    """Return what cuts a share of width and height away, half of it at each side."""

    def change(image: Image.Image) -> Image.Image:
        x, y = image.width * share / 2, image.height * share / 2
        box = (x, y, image.width - x, image.height - y)
        return image.resize(image.size, Image.Resampling.BICUBIC, box)

    return change


COPIES: dict[str, Change] = {
    "saved again, JPEG 95": saved(95),
    "saved again, JPEG 75": saved(75),
    "three quarters of the size": resized(0.75),
    "twice the size": resized(2),
    "2 % cut away": cut(0.02),
    "5 % cut away": cut(0.05),
}


def embedded(settings: config.Config, images: Sequence[Image.Image]) -> Tensor:
    """Return normalised features (images, d)."""
    model = encoders.load(settings.encoder, settings.runtime)
    parts = [images[start : start + 64] for start in range(0, len(images), 64)]
    made = [model.images(stacked([model.prepare(one) for one in part])) for part in parts]
    return normalise(torch.cat([torch.as_tensor(one) for one in made]).float())


def of_copies(settings: config.Config, images: Sequence[Image.Image]) -> dict[str, Tensor]:
    """Return the cosines (images) of pictures with copies of them, by kind."""
    own = embedded(settings, images)
    return {
        name: (own * embedded(settings, [change(image) for image in images])).sum(dim=1)
        for name, change in COPIES.items()
    }


def of_others(settings: config.Config, count: int) -> dict[str, Tensor]:
    """Return the cosines (count) of pictures of the demo's world with others, by kind."""
    rng = random.Random(SEED)
    scenes = [world.random_scene(rng).canonical() for _ in range(count)]
    apart = [neighbour(scene, rng) for scene in scenes]
    own, again, other = (
        embedded(settings, [world.render(scene, rng.getrandbits(32)) for scene in drawn])
        for drawn in (scenes, scenes, apart)
    )
    return {
        "the same scene drawn again": (own * again).sum(dim=1),
        "a scene one edit apart": (own * other).sum(dim=1),
    }


def pictures(count: int) -> list[Image.Image]:
    """Return pictures of the demo's world."""
    rng = random.Random(SEED)
    return [world.render(world.random_scene(rng), rng.getrandbits(32)) for _ in range(count)]


def written(title: str, found: Mapping[str, Tensor], thresholds: Sequence[float]) -> str:
    """Return the table: the share of pairs that are near-duplicates from some cosines on."""
    rows = [
        (
            name,
            f"{cosines.median():.5f}",
            *(f"{100 * (cosines >= at).float().mean():.0f}" for at in thresholds),
        )
        for name, cosines in found.items()
    ]
    header = ("a picture and", "median cosine", *(f"% from {at} on" for at in thresholds))
    return table(title, header, rows)


def _timed(places: int) -> tuple[str, str, str]:
    """Return what grouping takes up to a place, of synthetic features with few copies."""
    drawn = torch.Generator().manual_seed(SEED)
    kinds = torch.randn(max(places // 10, 1), 512, generator=drawn)
    own = torch.randint(0, len(kinds), (2 * places,), generator=drawn)
    rows = normalise(kinds[own] + 0.5 * torch.randn(2 * places, 512, generator=drawn))
    begun = time.process_time()
    found = group(rows, 0.9995, places)
    return f"{places:,}", f"{len(found):,}", f"{time.process_time() - begun:.2f}"


def tables(size: Size) -> Iterator[str]:
    """Yield the table of the demo's encoder and world, and of the time that grouping takes."""
    count, demo = PICTURES[size], config.load("demo")
    found = of_copies(demo, pictures(count)) | of_others(demo, count)
    yield written(f"{count:,} pictures of the demo's world, each with one other:", found, AT)
    yield table(
        "Grouping a ranking of synthetic features of 512 dimensions:",
        ("up to place", "groups", "CPU seconds"),
        [_timed(places) for places in PLACES[size]],
    )


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--config", "preset", default="laptop", show_default=True)
@click.option("--most", default=500, show_default=True, help="pictures that are looked at")
def main(folder: Path, preset: str, most: int) -> None:
    """Print the table of another encoder and pictures of one's own, to choose own.group_at by."""
    settings = config.load(preset)
    files = [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in endings()]
    images = [open_image(file) for file in files[:most]]
    own = embedded(settings, images)
    nearest = (own @ own.T).fill_diagonal_(-1).max(dim=1).values
    found = of_copies(settings, images) | {"the picture most like it": nearest}
    click.echo(
        written(f"{len(images):,} pictures of {folder.name}:", found, (0.9, 0.95, 0.97, *AT))
    )


if __name__ == "__main__":
    main()

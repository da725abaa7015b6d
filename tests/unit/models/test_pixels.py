"""Pixels are open_clip's own behind TargetPad, or those of the released scripts where asked."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from PIL import Image
from torchvision import transforms
from torchvision.transforms import functional, v2

from pipeline import config
from pipeline.errors import ConfigError, InputError
from pipeline.images.files import open_image
from pipeline.models import encoders
from pipeline.models.decode import decode
from pipeline.models.pixels import Preprocess, TargetPad
from pipeline.run import Run
from pipeline.stages import embeddings
from pipeline.study import compare

SIZES = [(640, 480), (481, 640), (224, 224), (97, 301), (1000, 333), (31, 30), (33, 400)]
MODELS = [
    ("ViT-B-16-SigLIP", "webli"),
    ("ViT-B-16-SigLIP-384", "webli"),
    ("ViT-B-16-SigLIP2-256", "webli"),
    ("ViT-H-14-CLIPA-336", "datacomp1b"),
    ("coca_ViT-B-32", "laion2b_s13b_b90k"),
    ("EVA02-B-16", "merged2b_s8b_b131k"),
    ("ViT-B-32", "openai"),
    ("ViT-L-14", "laion2b_s32b_b82k"),
    ("convnext_base_w", "laion2b_s13b_b82k"),
    ("MobileCLIP-S1", "datacompdr"),
]


def photo(width: int, height: int) -> Image.Image:
    """A picture of noise on a gradient, so that every resampling shows."""
    rng = np.random.default_rng(width * 1000 + height)
    pixels = rng.integers(0, 128, (height, width, 3)) + np.linspace(0, 127, width)[None, :, None]
    return Image.fromarray(pixels.astype(np.uint8))


def normalised(pixels: torch.Tensor, settings: dict[str, Any]) -> torch.Tensor:
    """What ``Clip.images`` makes of preprocessed pixels."""
    scaled = v2.functional.to_dtype(pixels, torch.float32, scale=True)
    return v2.functional.normalize(scaled, list(settings["mean"]), list(settings["std"]))


def published(name: str, tag: str) -> dict[str, Any]:
    """The preprocessing that open_clip gives a model of a tag, without building it."""
    told = merge_preprocess_dict(PreprocessCfg(), open_clip.get_pretrained_cfg(name, tag))
    return told | {"size": open_clip.get_model_config(name)["vision_cfg"]["image_size"]}


@pytest.mark.parametrize(("name", "tag"), MODELS)
def test_without_target_pad_pixels_are_open_clips_own(name: str, tag: str) -> None:
    settings = published(name, tag)
    ours, theirs = Preprocess(settings, None), image_transform_v2(PreprocessCfg(**settings), False)
    for size in SIZES:
        image = photo(*size)
        made = normalised(ours(image), settings)
        torch.testing.assert_close(made, theirs(image), rtol=0, atol=1e-6)


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [224, (224, 224), (160, 240)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_every_setting_of_open_clip_counts(resize_mode: str, size: Any, interpolation: str) -> None:
    settings = published("ViT-B-32", "openai") | {
        "resize_mode": resize_mode,
        "size": size,
        "interpolation": interpolation,
        "fill_color": 7,
        "mean": (0.1, 0.2, 0.3),
        "std": (0.4, 0.5, 0.6),
    }
    theirs = image_transform_v2(PreprocessCfg(**settings), False)
    for ratio in (None, 1.25):
        ours = Preprocess(settings, ratio)
        for width, height in SIZES:
            image = photo(width, height)
            padded = TargetPad(ratio)(image) if ratio else image
            made = normalised(ours(image), settings)
            torch.testing.assert_close(made, theirs(padded), rtol=0, atol=1e-6)


class ReleasedPad:
    """TargetPad as published with CLIP4Cir and copied by SEARLE and SEIZE, by its formula."""

    def __call__(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        if max(width, height) / min(width, height) < 1.25:
            return image
        side = max(width, height) / 1.25
        across, down = (max(int((side - length) / 2), 0) for length in (width, height))
        return functional.pad(image, [across, down, across, down], 0, "constant")


RELEASED = transforms.Compose(
    [
        ReleasedPad(),
        transforms.Resize(224, interpolation=Image.Resampling.BICUBIC),
        transforms.CenterCrop(224),
        lambda image: image.convert("RGB"),
        transforms.ToTensor(),
        transforms.Normalize(
            (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
        ),
    ]
)


def stored(mode: str) -> bytes:
    """A file whose own mode is ``mode``, transparent or turned where it can be."""
    image, buffer = photo(301, 150), io.BytesIO()
    if mode == "P with transparency":
        made = image.quantize(32)
        made.save(buffer, "PNG", transparency=3)
    elif mode == "EXIF":
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(buffer, "JPEG", exif=exif)
    elif mode in ("RGBA", "LA"):
        made = image.convert(mode)
        made.putalpha(Image.linear_gradient("L").resize(image.size))
        made.save(buffer, "PNG")
    elif mode == "I;16":
        grey = np.asarray(image.convert("L")).astype(np.uint16) * 200
        Image.fromarray(grey).save(buffer, "PNG")
    else:
        image.convert(mode).save(buffer, "JPEG" if mode == "CMYK" else "PNG")
    return buffer.getvalue()


MODES = ["RGB", "L", "1", "P", "P with transparency", "RGBA", "LA", "CMYK", "EXIF", "I;16"]


@pytest.mark.parametrize("mode", MODES)
def test_released_pixels_are_the_published_scripts(mode: str) -> None:
    settings = published("ViT-B-32", "openai")
    content = stored(mode)
    ours = Preprocess(settings, 1.25, as_stored=True)
    made = ours(open_image(Path("x"), content, as_stored=True))
    with Image.open(io.BytesIO(content)) as image:
        theirs = RELEASED(image)
    torch.testing.assert_close(normalised(made, settings), theirs, rtol=0, atol=1e-6)


def test_corrected_pixels_show_transparency_as_white_and_stand_upright() -> None:
    settings = published("ViT-B-32", "openai")
    for mode in ("RGBA", "EXIF", "P with transparency"):
        corrected = Preprocess(settings, 1.25)(open_image(Path("x"), stored(mode)))
        with Image.open(io.BytesIO(stored(mode))) as image:
            theirs = RELEASED(image)
        assert (normalised(corrected, settings) - theirs).abs().mean() > 0.01


def test_a_strip_without_target_pad_takes_bounded_memory() -> None:
    for mode in ("shortest", "longest", "squash"):
        settings = published("ViT-B-32", "openai") | {"resize_mode": mode}
        for size in ((60_000, 1), (1, 60_000)):
            assert Preprocess(settings, None)(Image.new("RGB", size, "red")).shape == (3, 224, 224)


def test_a_mode_that_cannot_become_rgb_is_an_input_error() -> None:
    released = Preprocess(published("ViT-B-32", "openai"), 1.25, as_stored=True)
    with pytest.raises(InputError, match="mode La"):
        released(Image.new("La", (40, 10)))


@pytest.mark.parametrize("pixels", ["corrected", "released"])
def test_the_pixels_asked_for_reach_the_model(pixels: str, tmp_path: Path) -> None:
    """Through worker processes, from files of every mode."""
    for number, mode in enumerate(MODES):
        (tmp_path / str(number)).write_bytes(stored(mode))
    settings = config.load("demo", {"clip.pixels": pixels, "runtime.workers": 2})
    model = encoders.load(settings.clip, settings.runtime)

    def read(name: str) -> tuple[Path, bytes]:
        return tmp_path / name, (tmp_path / name).read_bytes()

    names = [str(number) for number in range(len(MODES))]
    chunks = list(decode(names, read, model, settings.runtime))
    assert not any(chunk.broken for chunk in chunks)
    made = torch.cat([chunk.prepared for chunk in chunks])
    shown = open_clip.get_model_preprocess_cfg(model.model)
    as_stored = pixels == "released"
    own = Preprocess(shown, 1.25, as_stored)
    expected = [own(open_image(tmp_path / name, as_stored=as_stored)) for name in names]
    assert torch.equal(made, torch.stack(expected))


def test_the_pixel_path_is_part_of_the_protocol(make_run: Callable[..., Run]) -> None:
    plain, released = make_run(), make_run(clip__pixels="released")
    assert (plain.protocol["pixels"], released.protocol["pixels"]) == ("corrected", "released")
    rows = [compare.Row(run.config.clip.pixels, {}, run.protocol) for run in (plain, released)]
    with pytest.raises(ConfigError, match="pixels"):
        compare.check_protocols(rows, mixed=False)
    assert embeddings.identity(plain.config) != embeddings.identity(released.config)

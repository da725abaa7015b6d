"""CLIP as open_clip has it: its preprocessing, and a look whether the model sees and reads."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.transforms import v2

from pipeline import config
from pipeline.config import ClipConfig, RuntimeConfig
from pipeline.errors import ModelError
from pipeline.models import encoders
from pipeline.models.decode import decode
from pipeline.models.encoders._open_clip import Clip, _preprocessing_of
from pipeline.models.encoders.open_clip import KIND
from tests.conftest import PROJECT

MODEL = PROJECT / "data" / "models" / "clip"
RUNTIME = RuntimeConfig(device="cpu")


def copy(folder: Path, preprocessing: dict[str, Any]) -> Clip:
    shutil.copytree(MODEL, folder)
    content = json.loads((folder / "open_clip_config.json").read_text())
    content["preprocess_cfg"] |= preprocessing
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    return Clip(ClipConfig(model=f"local-dir:{folder}", target_pad=None), RUNTIME)


@pytest.mark.parametrize(
    "preprocessing",
    [
        {"resize_mode": "squash"},
        {"resize_mode": "longest", "fill_color": 99},
        {"interpolation": "bilinear", "mean": [0.1, 0.2, 0.3]},
        {},
    ],
)
def test_a_folders_own_preprocessing_is_open_clips(
    preprocessing: dict[str, Any], tmp_path: Path
) -> None:
    """The features of an image are those that open_clip's transform and model make of it."""
    clip = copy(tmp_path / "clip", preprocessing)
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (97, 210, 3), dtype=np.uint8))
    theirs, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'clip'}")
    with torch.inference_mode():
        expected = theirs.eval().encode_image(transform(image)[None]).numpy()
    np.testing.assert_allclose(clip.images(clip.prepare(image)[None]), expected, atol=1e-5)


def test_a_weights_file_gets_what_all_published_weights_agree_on() -> None:
    """open_clip would give SigLIP's weights the preprocessing of OpenAI's."""
    told = _preprocessing_of(ClipConfig(model="ViT-B-16-SigLIP2", pretrained="weights.pt"))
    assert told is not None
    assert (told["resize_mode"], told["mean"], told["std"]) == ("squash", (0.5,) * 3, (0.5,) * 3)
    assert _preprocessing_of(ClipConfig(model="ViT-L-14", pretrained="weights.pt")) is None
    settings = PreprocessCfg(**{"size": 224, **told})
    image = Image.radial_gradient("L").convert("RGB").resize((300, 200))
    squashed = image_transform_v2(settings, is_train=False)(image)
    plain = v2.functional.resize(image, [224, 224], v2.InterpolationMode.BICUBIC)
    assert torch.equal(squashed, v2.functional.pil_to_tensor(plain) / 255 * 2 - 1)


def zero_images(weights: dict[str, torch.Tensor]) -> None:
    weights["visual.proj"] = torch.zeros_like(weights["visual.proj"])


def zero_texts(weights: dict[str, torch.Tensor]) -> None:
    weights["text_projection"] = torch.zeros_like(weights["text_projection"])


@pytest.mark.parametrize(("spoil", "what"), [(zero_images, "images"), (zero_texts, "texts")])
def test_a_model_that_tells_nothing_apart_is_refused(
    spoil: Callable[[dict[str, torch.Tensor]], None], what: str, tmp_path: Path
) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(MODEL, folder)
    weights = load_file(folder / "open_clip_model.safetensors")
    spoil(weights)
    save_file(weights, folder / "open_clip_model.safetensors")
    with pytest.raises(ModelError, match=f"the same feature of two different {what}"):
        Clip(ClipConfig(model=f"local-dir:{folder}"), RUNTIME)


def test_siglip_2_loads_from_a_folder_in_its_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its text tower pools the last token, sees all others, and has a tokenizer of its own."""
    settings = open_clip.get_model_config("ViT-B-16-SigLIP2")
    assert settings is not None
    text = settings["text_cfg"] | {"width": 32, "heads": 2, "layers": 2, "vocab_size": 90}
    vision = {"image_size": 64, "patch_size": 16, "width": 32, "layers": 2, "head_width": 16}
    content = {
        "model_cfg": {**settings, "embed_dim": 24, "text_cfg": text, "vision_cfg": vision},
        "preprocess_cfg": {
            "size": 64,
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "resize_mode": "squash",
        },
    }
    folder = tmp_path / "siglip2"
    words = PROJECT / "data" / "models" / "verifier"
    shutil.copytree(words, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    torch.manual_seed(0)
    weights = open_clip.create_model(f"local-dir:{folder}", load_weights=False).state_dict()
    save_file({k: v.contiguous() for k, v in weights.items()},
              folder / "open_clip_model.safetensors")  # fmt: skip
    clip = Clip(ClipConfig(model=f"local-dir:{folder}", target_pad=None), RUNTIME)
    made = clip.texts(["a red circle", "two blue squares"])
    assert made.shape == (2, 24)
    tokens = clip.tokenizer(["a red circle"])
    assert tokens.shape == (1, text["context_length"])
    red = Image.new("RGB", (80, 64), "red")
    assert clip.images(clip.prepare(red)[None]).shape == (1, 24)


def test_what_is_cut_is_what_the_tokenizer_leaves_out() -> None:
    clip = Clip(ClipConfig(model=f"local-dir:{MODEL}"), RUNTIME)
    texts = [" ".join(["red"] * count) for count in (1, 29, 30, 31, 90)]
    assert clip.too_long(texts) == texts[3:]
    cut = [text for text in texts if not torch.equal(*clip.tokenizer([text, f"{text} star"]))]
    assert cut == texts[:2]  # where another word changes nothing, the context is full


def test_long_texts_are_the_mean_of_their_parts_and_others_stay() -> None:
    parted = Clip(ClipConfig(model=f"local-dir:{MODEL}", long_texts="segments"), RUNTIME)
    cut = Clip(ClipConfig(model=f"local-dir:{MODEL}"), RUNTIME)
    first = "two large red circles left of a small blue star on a dark background. "
    second = "three small green hearts above one large yellow cross and one more small white star."
    long = first + second
    (features,) = parted.texts([long])
    assert cut.too_long([long, first]) == [long]
    expected = cut.texts([first.strip(), second]).mean(axis=0)
    np.testing.assert_allclose(features, expected, atol=1e-5)
    assert np.abs(features - cut.texts([long])[0]).max() > 0.01
    np.testing.assert_allclose(parted.texts([first, long])[0], cut.texts([first])[0], atol=1e-5)


def test_reading_in_parts_enters_the_identity_and_cutting_does_not() -> None:
    def identity(**settings: Any) -> dict[str, Any]:
        return KIND.identity(ClipConfig(model=f"local-dir:{MODEL}", **settings))

    assert "long_texts" not in identity()
    assert identity(long_texts="segments") == identity() | {"long_texts": "segments"}


def test_drafts_are_within_the_stated_difference_and_named_in_the_fingerprint() -> None:
    """A photograph of 640 x 480 pixels, as docs/encoders.md says it."""
    exact = config.load("demo").clip
    draft = config.load("demo", {"clip.decode": "draft"}).clip
    told, other = (encoders.ROLE.choose(one).identity for one in (exact, draft))
    assert "decode" not in told
    assert other == told | {"decode": "draft"}
    models = [encoders.load(one, RUNTIME) for one in (exact, draft)]
    content = photograph()

    def read(name: str) -> tuple[Path, bytes]:
        return Path(name), content

    (one,), (two,) = ([*decode(["a"], read, model, RUNTIME)] for model in models)
    assert isinstance(one.prepared, torch.Tensor)
    assert isinstance(two.prepared, torch.Tensor)
    difference = (one.prepared.float() - two.prepared.float()).abs()
    assert 0 < difference.mean() < 1
    assert difference.max() <= 10
    vectors = [torch.from_numpy(model.images(one.prepared)) for model in models]
    first, second = (models[0].images(made.prepared) for made in (one, two))
    cosine = torch.nn.functional.cosine_similarity(*map(torch.from_numpy, (first, second)))
    assert cosine.min() > 0.999
    torch.testing.assert_close(*vectors, rtol=0, atol=0)  # the option changes decoding alone


def photograph() -> bytes:
    """A JPEG with coarse colours and noise."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((640, 480))) + generator.normal(0, 8, (480, 640, 1))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "jpeg", quality=85)
    return buffer.getvalue()

"""The loading code takes full-size architectures, saved locally with random weights."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel

from pipeline.config import CaptionerConfig, ClipConfig, RuntimeConfig
from pipeline.models.captioners._blip2 import Blip2
from pipeline.models.encoders._open_clip import Clip

RUNTIME = RuntimeConfig(device="cpu")


def save_clip(name: str, folder: Path) -> None:
    """Save an open_clip architecture with random weights, as an open_clip folder of float16."""
    model = open_clip.create_model(name)
    weights = {k: v.half().clone().contiguous() for k, v in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    config = {
        "model_cfg": open_clip.get_model_config(name),
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("name", "width", "context"),
    [("ViT-B-32", 512, 77), ("ViT-L-14", 768, 77), ("coca_ViT-B-32", 512, 76)],
)
def test_open_clip_architectures_load_by_path(
    tmp_path: Path, name: str, width: int, context: int
) -> None:
    save_clip(name, tmp_path)
    clip = Clip(ClipConfig(model=f"local-dir:{tmp_path}"), RUNTIME)
    pixels = clip.prepare(Image.new("RGB", (640, 320), "red"))
    assert pixels.shape == (3, 224, 224)
    images = clip.images(torch.stack([pixels, pixels]))
    assert images.shape == (2, width)
    assert images.dtype == np.float32
    assert clip.tokenizer(["a"]).shape[1] == context
    texts = clip.texts(["a dog", "a dog on a beach " * 60])
    assert texts.shape == (2, width)
    assert np.isfinite(texts).all()


def test_a_weights_file_loads_by_name_and_path(tmp_path: Path) -> None:
    save_clip("ViT-B-32", tmp_path)
    weights = tmp_path / "open_clip_model.safetensors"
    clip = Clip(ClipConfig(model="ViT-B-32", pretrained=str(weights)), RUNTIME)
    folder = Clip(ClipConfig(model=f"local-dir:{tmp_path}"), RUNTIME)
    texts = ["a dog", "a cat"]
    np.testing.assert_array_equal(clip.texts(texts), folder.texts(texts))


def test_blip2_of_the_released_size_with_few_layers(tmp_path: Path) -> None:
    """Widths of Salesforce/blip2-opt-6.7b-coco; layers cut from 39, 12 and 32 to fit memory."""
    words = {"<pad>": 1, "</s>": 2, "<unk>": 3, "a": 102, "photo": 1345, "of": 9}
    inner = Tokenizer(WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="</s> $A", special_tokens=[("</s>", 2)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="</s>", eos_token="</s>",
        unk_token="<unk>", model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    processor = transformers.Blip2Processor(
        transformers.BlipImageProcessor(size={"height": 364, "width": 364}),
        tokenizer,
        num_query_tokens=32,
    )
    config = transformers.Blip2Config(
        vision_config={
            "hidden_size": 1408, "intermediate_size": 6144, "num_hidden_layers": 2,
            "num_attention_heads": 16, "image_size": 364, "patch_size": 14,
        },
        qformer_config={"num_hidden_layers": 2, "encoder_hidden_size": 1408},
        text_config={
            "model_type": "opt", "vocab_size": 50304, "hidden_size": 4096,
            "word_embed_proj_dim": 4096, "num_hidden_layers": 1, "ffn_dim": 16384,
            "num_attention_heads": 32,
        },
        num_query_tokens=32,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    model = transformers.Blip2ForConditionalGeneration(config).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    del model
    settings = CaptionerConfig(
        model=str(tmp_path), samples=3, max_new_tokens=4, precision="bfloat16"
    )
    captioner = Blip2(settings, RUNTIME)
    images = [Image.new("RGB", (500, 300), "blue"), Image.new("RGB", (200, 400), "green")]
    captions = captioner.caption(["a", "b"], images)
    assert [len(texts) for texts in captions] == [3, 3]

"""The demo's CLIP in the layout of transformers, as published CLIP checkpoints have it."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file

from pipeline.demo import verifier
from tests.conftest import PROJECT

CLIP = PROJECT / "data" / "models" / "clip"


def clip_of_transformers(folder: Path) -> Path:
    """Write the demo's CLIP as a ``CLIPModel`` with its processor and tokenizer; return the folder.

    Its features are those that open_clip makes with the same weights.
    """
    made = json.loads((CLIP / "open_clip_config.json").read_text())
    text, vision = made["model_cfg"]["text_cfg"], made["model_cfg"]["vision_cfg"]
    common = {"num_hidden_layers": 4, "hidden_act": "gelu"}
    width = int(text["width"])
    config = transformers.CLIPConfig(
        projection_dim=made["model_cfg"]["embed_dim"],
        text_config=common
        | {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
            "max_position_embeddings": text["context_length"],
            "vocab_size": text.get("vocab_size", 49408),
            "bos_token_id": 49406,
            "eos_token_id": 49407,
        },
        vision_config=common
        | {
            "hidden_size": vision["width"],
            "intermediate_size": 4 * vision["width"],
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["width"] // vision.get("head_width", 64),
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
        },
    )
    model = transformers.CLIPModel(config)
    weights = load_file(CLIP / "open_clip_model.safetensors")
    with torch.no_grad():
        verifier.load_vision(model.vision_model, CLIP)
        _load_text(model, weights, text["layers"])
        model.visual_projection.weight.copy_(weights["visual.proj"].T)
        model.text_projection.weight.copy_(weights["text_projection"].T)
        model.logit_scale.copy_(weights["logit_scale"])
    model.save_pretrained(folder)
    _tokenizer(text["context_length"]).save_pretrained(folder)
    seen = made["preprocess_cfg"]
    side = vision["image_size"]
    transformers.CLIPImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=seen["mean"],
        image_std=seen["std"],
    ).save_pretrained(folder)
    return folder


def _load_text(model: Any, weights: dict[str, torch.Tensor], layers: int) -> None:
    tower = model.text_model
    tower.embeddings.token_embedding.weight.copy_(weights["token_embedding.weight"])
    tower.embeddings.position_embedding.weight.copy_(weights["positional_embedding"])
    for kind in ("weight", "bias"):
        getattr(tower.final_layer_norm, kind).copy_(weights[f"ln_final.{kind}"])
        for number in range(layers):
            old, new = f"transformer.resblocks.{number}.", tower.encoder.layers[number]
            rows = weights[f"{old}attn.in_proj_{kind}"].chunk(3)
            for name, part in zip("qkv", rows, strict=True):
                getattr(getattr(new.self_attn, f"{name}_proj"), kind).copy_(part)
            getattr(new.self_attn.out_proj, kind).copy_(weights[f"{old}attn.out_proj.{kind}"])
            getattr(new.layer_norm1, kind).copy_(weights[f"{old}ln_1.{kind}"])
            getattr(new.layer_norm2, kind).copy_(weights[f"{old}ln_2.{kind}"])
            getattr(new.mlp.fc1, kind).copy_(weights[f"{old}mlp.c_fc.{kind}"])
            getattr(new.mlp.fc2, kind).copy_(weights[f"{old}mlp.c_proj.{kind}"])


def _tokenizer(length: int) -> Any:
    """Return CLIP's own tokenizer, from the vocabulary that open_clip brings."""
    own = SimpleTokenizer()  # type: ignore[no-untyped-call]
    merges = sorted(own.bpe_ranks, key=own.bpe_ranks.__getitem__)
    marks = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {marks.get(word, word): number for word, number in own.encoder.items()}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length)

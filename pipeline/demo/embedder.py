"""Trains the demo's joint embedder: a small LLaVA whose last token stands for image, text or both.

It starts from the demo's verifier, as universal multimodal embedders start from vision-language
models, and learns by contrast which picture a picture becomes by a change. The folder is served by
``vllm serve --runner pooling --convert embed --model-impl transformers`` and loaded by
sentence-transformers alike: last token, normalised.
"""

import copy
import math
import random
import re
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from pipeline.demo import training, verifier, world
from pipeline.demo.world import Edit, Scene
from pipeline.models.encoders.base import INSTRUCTION
from pipeline.models.prompts.embed import load as load_prompt
from pipeline.store.files import write_json

BATCH = 48
"""Queries a step; each brings its reference and target, and the text of its target."""
PROMPT = "change"
"""The prompt of ``prompts/embed`` that pairs are trained with."""
SENTENCE_TRANSFORMERS: dict[str, Any] = {
    "modules.json": [
        {
            "idx": idx,
            "name": str(idx),
            "path": path,
            "type": f"sentence_transformers.{module}",
        }
        for idx, (path, module) in enumerate(
            [
                ("", "base.modules.transformer.Transformer"),
                ("1_Pooling", "sentence_transformer.modules.pooling.Pooling"),
                ("2_Normalize", "base.modules.normalize.Normalize"),
            ]
        )
    ],
    "1_Pooling/config.json": {"embedding_dimension": 128, "pooling_mode": "lasttoken"},
    "sentence_bert_config.json": {
        "transformer_task": "feature-extraction",
        "modality_config": {
            modality: {"method": "forward", "method_output_name": "last_hidden_state"}
            | ({"format": "structured"} if modality == "message" else {})
            for modality in ("text", "image", "message")
        },
        "module_output_name": "token_embeddings",
        "processing_kwargs": {"chat_template": {"add_generation_prompt": True}},
    },
}
"""What sentence-transformers reads beside the checkpoint."""


def words_of(text: str) -> list[str]:
    """Return the words and marks of a text as the tokenizer tells them apart."""
    return re.findall(r"\w+|[^\w\s]+", text.lower())


def question(rng: random.Random) -> tuple[Scene, Edit, Scene]:
    """Return a reference, an edit and the target that the edit makes, none of them held out."""
    while True:
        scene = world.training_scene(rng)
        edit = world.random_edit(scene, rng)
        target = edit.apply(scene).canonical()
        if target != scene and not world.held_out(target):
            return scene, edit, target


class Chats:
    """Makes the tokens of images, texts and pairs, in the form in which servers are asked."""

    def __init__(self, words: Any) -> None:
        self.words = words
        self.asked = load_prompt(PROMPT).instruction

    def __call__(self, images: bool, texts: list[str], instruction: str) -> dict[str, Tensor]:
        """Return ids and attention mask, padded on the right; pictures stand before the texts."""
        picture = [{"type": "image"}] if images else []
        chats = [
            [
                {"role": "system", "content": [{"type": "text", "text": instruction}]},
                {"role": "user", "content": [*picture, {"type": "text", "text": text}]},
            ]
            for text in texts
        ]
        rendered = self.words.apply_chat_template(
            chats, chat_template=verifier.CHAT, add_generation_prompt=True, tokenize=False
        )
        tokens = " ".join([verifier.IMAGE] * verifier.TOKENS)
        made: dict[str, Tensor] = self.words(
            [text.replace(verifier.IMAGE, tokens) for text in rendered],
            return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False,
        )  # fmt: skip
        return dict(made)


def embed(model: Any, batch: dict[str, Tensor], pixels: Tensor | None) -> Tensor:
    """Return the last tokens' hidden states (n, d)."""
    given = {} if pixels is None else {"pixel_values": pixels}
    hidden = model.model(**batch, **given).last_hidden_state
    last = batch["attention_mask"].sum(dim=1) - 1
    found: Tensor = hidden[torch.arange(len(hidden)), last]
    return found


def contrast(
    queries: Tensor, images: Tensor, right: Tensor, alike: Tensor, scale: Tensor
) -> Tensor:
    """Return the InfoNCE loss of ``queries`` (n, d) against ``images`` (m, d).

    ``right`` (n) is each query's image; others that are right as well, ``alike`` (n, m), are out.
    """
    unit = torch.nn.functional.normalize
    logits = scale * unit(queries, dim=1) @ unit(images, dim=1).T
    others = alike.clone()
    others[torch.arange(len(right)), right] = False
    return torch.nn.functional.cross_entropy(logits.masked_fill(others, -math.inf), right)


def train_embedder(out: Path, steps: int, seed: int, rate: float, start: Path | None) -> None:
    """Train by contrast: pairs and texts against the pictures of their targets.

    References are among the pictures, so that a query learns not to stay where it starts. A linear
    head that names the attributes of what a vector stands for speeds it up, and is dropped.
    """
    more = words_of(f"{INSTRUCTION} {load_prompt(PROMPT).instruction}")
    special = ["<|system|>", "<|user|>", "<|assistant|>", verifier.IMAGE]
    words = training.tokenizer(special, None, [*verifier.QUESTIONS, *more])
    words.image_token = verifier.IMAGE
    earlier = training.history(start or training.MODELS / "verifier")
    torch.manual_seed(seed)
    model = verifier.model_of(words)
    _load(model, words, start or training.MODELS / "verifier")
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=1, eos_token_id=2, pad_token_id=0
    )
    model.train()
    chats = Chats(words)
    head = torch.nn.Linear(128, sum(training.LABELS))
    scale = torch.nn.Parameter(torch.tensor(math.log(20.0)))

    def named(vectors: Tensor, scenes: list[Scene]) -> Tensor:
        truth = torch.tensor([training.attributes(scene) for scene in scenes]).T
        parts = torch.split(head(vectors), training.LABELS, dim=1)
        cross = torch.nn.functional.cross_entropy
        return torch.stack([cross(p, t) for p, t in zip(parts, truth, strict=True)]).mean()

    def loss_of(rng: random.Random) -> Tensor:
        asked = [question(rng) for _ in range(BATCH)]
        references, targets = [one[0] for one in asked], [one[2] for one in asked]
        told = [world.mention(t, rng) if rng.random() < 0.5 else t for t in targets]
        shown = [*targets, *references]
        pixels = training.pixels(shown, rng)
        images = embed(model, chats(True, [""] * len(shown), INSTRUCTION), pixels)
        edits = [edit.text for _, edit, _ in asked]
        pairs = embed(model, chats(True, edits, chats.asked), pixels[BATCH:])
        texts = embed(model, chats(False, [t.text() for t in told], INSTRUCTION), None)
        right, times = torch.arange(BATCH), scale.exp().clamp(max=100)
        same = torch.tensor([[t == other for other in shown] for t in targets])
        true = torch.tensor([[all(world.claims(t, other)) for other in shown] for t in told])
        loss = contrast(pairs, images, right, same, times)
        loss = loss + contrast(texts, images, right, true | same, times)
        hints = named(images, shown) + named(pairs, targets)
        return loss + hints

    def save(record: dict[str, Any]) -> None:
        save_embedder(out, model, words, record | earlier)

    parameters = [*model.parameters(), *head.parameters(), scale]
    training.train(parameters, loss_of, save, steps, rate, seed, every=100)


def _load(model: Any, words: Any, folder: Path) -> None:
    """Copy the weights of a small LLaVA into ``model``, whose vocabulary may be another."""
    known = transformers.AutoTokenizer.from_pretrained(folder)
    before = transformers.LlavaForConditionalGeneration.from_pretrained(folder).state_dict()
    own = model.state_dict()
    for name, tensor in before.items():
        if len(tensor) == len(known) and name.endswith(("embed_tokens.weight", "lm_head.weight")):
            training.carry_over(known, tensor, words, own[name])
        else:
            own[name].copy_(tensor)


def save_embedder(out: Path, model: Any, words: Any, record: dict[str, Any]) -> None:
    """Write the checkpoint, in float16, with what vLLM and sentence-transformers read of it."""
    copy.deepcopy(model).half().save_pretrained(out)
    verifier.published_names(out / "model.safetensors")
    verifier.processor_of(words).save_pretrained(out)
    for name, content in SENTENCE_TRANSFORMERS.items():
        (out / name).parent.mkdir(exist_ok=True)
        write_json(out / name, content)
    write_json(out / "training.json", record)

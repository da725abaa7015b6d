"""Trains the demo's verifier: a small LLaVA that answers yes or no about pictures of the world.

It starts from the demo's CLIP (vision tower) and LLM (language model), as LLaVA did from its own.
"""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.demo import training, world
from pipeline.demo.world import Group, Scene
from pipeline.models.prompts.verify import load as load_prompt
from pipeline.store.files import write_json

IMAGE = "<image>"
CHAT = (
    "{% for message in messages %}<|{{ message['role'] }}|> "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<image>{% endif %} "
    "{% endfor %}{% endif %}</s>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PATCH, SIDE = 16, world.SIDE
TOKENS = (SIDE // PATCH) ** 2 + 1
"""Of an image: its patches, and the whole as CLIP sums it up."""
QUESTIONS = ["does", "show", "change", "make", "second", "?", "yes", "no", "describe"]
DESCRIBE = "describe the image"
NOTHING: dict[str, Any] = {"count": None, "size": None, "colour": None}


@dataclass(frozen=True)
class Example:
    """A question and what there is to know about its answer."""

    scenes: list[Scene]
    """What the images show, the candidate last."""
    text: str
    told: Scene
    """What the candidate should show: the description, or what the edit makes of the reference."""
    answer: bool


def about_caption(rng: random.Random, held_out: bool = False) -> Example:
    """Ask whether a description is true of a scene.

    Half of the descriptions are short, so that single attributes are learnt first; none is where
    scenes ``held_out`` from training are asked about.
    """
    target = _scene(rng, held_out)
    told = world.mention(target, rng)
    if short := not held_out and rng.random() < 0.5:
        told = _short(told, rng)
    kind = rng.random()
    scene = target if kind < 0.35 else near(target, rng, held_out)
    if kind > (0.6 if short else 0.9):
        scene = _scene(rng, held_out)
    return Example([scene], told.text(), told, all(world.claims(told, scene)))


def _short(told: Scene, rng: random.Random) -> Scene:
    """Return a description of one group, by some of its attributes."""
    group = rng.choice(told.groups)
    kept = {n: getattr(group, n) for n in ("count", "size", "colour") if rng.random() < 0.5}
    background = told.background if rng.random() < 0.3 else None
    return Scene((Group(group.shape, **{**NOTHING, **kept}),), None, background)


def about_change(rng: random.Random, held_out: bool = False) -> Example:
    """Ask whether a relative caption leads from a reference to a candidate."""
    while True:
        reference = _scene(rng, held_out)
        edit = world.random_edit(reference, rng)
        if rng.random() < 0.25:
            edit = world.joined_edit(reference, rng)
        target = edit.apply(reference).canonical()
        if world.held_out(target) == held_out:
            break
    candidate = target
    if rng.random() < 0.55:
        start = rng.random()
        candidate = reference if start < 0.15 else target
        if start >= 0.15:
            candidate = near(reference if start < 0.4 else target, rng, held_out)
    return Example([reference, candidate], edit.text, target, candidate == target)


def _scene(rng: random.Random, held_out: bool) -> Scene:
    while world.held_out(scene := world.random_scene(rng)) != held_out:
        pass
    return scene


def near(scene: Scene, rng: random.Random, held_out: bool) -> Scene:
    """Return a scene that is one edit, or now and then two, from ``scene``."""
    while True:
        other = world.random_edit(scene, rng).apply(scene).canonical()
        if rng.random() < 0.2:
            other = world.random_edit(other, rng).apply(other).canonical()
        if world.held_out(other) == held_out:
            return other


def processor_of(words: Any) -> Any:
    """Return the processor of the checkpoint: pictures of the world's size, and the tokenizer."""
    images = transformers.CLIPImageProcessor(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=training.MEAN,
        image_std=training.STD,
    )
    return transformers.LlavaProcessor(
        images,
        words,
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        chat_template=CHAT,
        num_additional_image_tokens=1,
    )


def model_of(words: Any) -> Any:
    """Return the small LLaVA, of random weights."""
    vision = transformers.CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        hidden_act="gelu",
    )
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config=training.llama(words),
        image_token_index=words.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=[-2, -1],
        vision_feature_select_strategy="full",
        image_seq_length=TOKENS,
        pad_token_id=0,
    )
    return transformers.LlavaForConditionalGeneration(config)


def load_vision(tower: Any, folder: Path) -> None:
    """Copy the image side of an open_clip checkpoint into a ``CLIPVisionModel``."""
    weights = load_file(folder / "open_clip_model.safetensors")
    own = tower.state_dict()
    prefix = next(name for name in own if name.endswith("pre_layrnorm.weight"))
    prefix = prefix.removesuffix("pre_layrnorm.weight")

    def put(name: str, value: Tensor) -> None:
        own[prefix + name].copy_(value)

    put("embeddings.class_embedding", weights["visual.class_embedding"])
    put("embeddings.patch_embedding.weight", weights["visual.conv1.weight"])
    put("embeddings.position_embedding.weight", weights["visual.positional_embedding"])
    for kind in ("weight", "bias"):
        put(f"pre_layrnorm.{kind}", weights[f"visual.ln_pre.{kind}"])
        put(f"post_layernorm.{kind}", weights[f"visual.ln_post.{kind}"])
        for layer in range(4):
            old, new = f"visual.transformer.resblocks.{layer}.", f"encoder.layers.{layer}."
            rows = weights[f"{old}attn.in_proj_{kind}"].chunk(3)
            for name, part in zip("qkv", rows, strict=True):
                put(f"{new}self_attn.{name}_proj.{kind}", part)
            put(f"{new}self_attn.out_proj.{kind}", weights[f"{old}attn.out_proj.{kind}"])
            put(f"{new}layer_norm1.{kind}", weights[f"{old}ln_1.{kind}"])
            put(f"{new}layer_norm2.{kind}", weights[f"{old}ln_2.{kind}"])
            put(f"{new}mlp.fc1.{kind}", weights[f"{old}mlp.c_fc.{kind}"])
            put(f"{new}mlp.fc2.{kind}", weights[f"{old}mlp.c_proj.{kind}"])


class Hints(torch.nn.Module):
    """Heads that speed up training by naming what the answer rests on; dropped afterwards.

    At each noun of a description: the attributes of that shape in the candidate, and which of the
    said ones are right. At the end: all attributes of the candidate, and of what it should show.
    """

    NOUN = (5, len(world.SIZES) + 1, len(world.COLOURS) + 1, 2, 2, 2, 2)

    def __init__(self, words: Any) -> None:
        super().__init__()
        self.at_noun = torch.nn.Linear(128, sum(self.NOUN))
        self.at_end = torch.nn.Linear(128, 2 * sum(training.LABELS))
        shapes = [*world.SHAPES, *map(world.plural, world.SHAPES)]
        self.nouns = torch.tensor(words.convert_tokens_to_ids(shapes))

    def loss(self, hidden: Tensor, batch: dict[str, Tensor], examples: list[Example]) -> Tensor:
        """Return the mean cross-entropy of all heads; ``hidden`` is (examples, tokens, 128)."""
        full = [(e.scenes[-1], e.told if len(e.scenes) > 1 else e.scenes[-1]) for e in examples]
        truth = [training.attributes(shown) + training.attributes(told) for shown, told in full]
        losses = self._losses(self.at_end(hidden[:, -2]), training.LABELS * 2, truth)
        if len(examples[0].scenes) == 1:
            nouns = torch.isin(batch["input_ids"], self.nouns)
            facts = [_facts(g, e.scenes[0].group(g.shape)) for e in examples for g in e.told.groups]
            losses += self._losses(self.at_noun(hidden[nouns]), self.NOUN, facts)
        return torch.stack(losses).mean()

    def _losses(self, logits: Tensor, sizes: Sequence[int], truth: list[list[int]]) -> list[Tensor]:
        columns = torch.tensor(truth).T
        parts = torch.split(logits, list(sizes), dim=1)
        cross = torch.nn.functional.cross_entropy
        return [cross(part, column) for part, column in zip(parts, columns, strict=True)]


def _facts(said: Group, shown: Group | None) -> list[int]:
    """Return the shown group's attributes as class numbers, and which of the said are right."""
    names = ("count", "size", "colour")
    right = [
        int(shown is not None and getattr(said, n) in (None, getattr(shown, n))) for n in names
    ]
    if shown is None:
        return [0, 0, 0, 0, *right]
    size = list(world.SIZES).index(shown.size or "") + 1
    colour = list(world.COLOURS).index(shown.colour or "") + 1
    return [shown.count or 0, size, colour, 1, *right]


def published_names(file: Path) -> None:
    """Name the vision tower's weights as published LLaVA checkpoints do, which vLLM expects."""
    old, new = "vision_tower.", "vision_tower.vision_model."
    weights = {
        name if name.startswith(new) else name.replace(old, new): value
        for name, value in load_file(file).items()
    }
    save_file(weights, file, metadata={"format": "pt"})


def train_verifier(out: Path, steps: int, seed: int, rate: float, start: Path | None) -> None:
    """Train a small LLaVA on the questions of ``prompts/verify``, half each, by cross-entropy.

    The loss is on the first token of the answer, the one whose probability is read.
    """
    words = training.tokenizer(["<|system|>", "<|user|>", "<|assistant|>", IMAGE], None, QUESTIONS)
    words.image_token = IMAGE
    processor = processor_of(words)
    earlier = training.history(start)
    torch.manual_seed(seed)
    model = model_of(words)
    if start:
        model = transformers.LlavaForConditionalGeneration.from_pretrained(start)
    else:
        load_vision(model.model.vision_tower, training.MODELS / "clip")
        training.load_llama(model, words, training.MODELS / "llm", "model.language_model.")
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=1, eos_token_id=2, pad_token_id=0
    )
    model.train()
    tokens = IMAGE + f" {IMAGE}" * (TOKENS - 1)
    kinds = [(about_caption, load_prompt("demo")), (about_change, load_prompt("demo-change"))]

    def chats(messages: list[list[dict[str, Any]]], answers: list[str]) -> dict[str, Tensor]:
        """Return ids, attention mask and labels, padded on the left; the loss is on the answers."""
        asked = words.apply_chat_template(
            messages, chat_template=CHAT, add_generation_prompt=True, tokenize=False
        )
        texts = [
            f"{text.replace(IMAGE, tokens)} {answer}"
            for text, answer in zip(asked, answers, strict=True)
        ]
        batch = words(
            texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
        )
        ids = batch["input_ids"]
        labels = torch.full_like(ids, -100)
        for row, answer in enumerate(answers):
            length = len(answer.split())
            labels[row, -length:] = ids[row, -length:]
        return {**batch, "labels": labels}

    def describing(rng: random.Random) -> tuple[dict[str, Tensor], list[Scene]]:
        """Return chats that describe images: without them, the questions are learnt far slower."""
        scenes = [world.training_scene(rng) for _ in range(64)]
        content = [{"type": "image"}, {"type": "text", "text": DESCRIBE}]
        messages = [[{"role": "user", "content": content}] for _ in scenes]
        return chats(messages, [f"{scene.text()} </s>" for scene in scenes]), scenes

    def asking(rng: random.Random) -> tuple[dict[str, Tensor], list[Example]]:
        make, prompt = kinds[rng.random() < 0.35]
        examples = [make(rng) for _ in range(64)]
        messages = [
            prompt.messages([{"type": "image"}] * len(example.scenes), example.text, example.text)
            for example in examples
        ]
        return chats(messages, ["yes" if e.answer else "no" for e in examples]), examples

    hints = Hints(words)
    step = itertools.count()

    def loss_of(rng: random.Random) -> Tensor:
        if rng.random() < (0.6 if start is None and next(step) < 300 else 0.15):
            batch, scenes = describing(rng)
            described: Tensor = model(**batch, pixel_values=training.pixels(scenes, rng)).loss
            return described
        batch, examples = asking(rng)
        scenes = [scene for example in examples for scene in example.scenes]
        output = model(
            **batch, pixel_values=training.pixels(scenes, rng), output_hidden_states=True
        )
        loss: Tensor = output.loss + hints.loss(output.hidden_states[-1], batch, examples)
        return loss

    def save(record: dict[str, Any]) -> None:
        model.save_pretrained(out)
        published_names(out / "model.safetensors")
        processor.save_pretrained(out)
        write_json(out / "training.json", record | earlier)

    training.train([*model.parameters(), *hints.parameters()], loss_of, save, steps, rate, seed)

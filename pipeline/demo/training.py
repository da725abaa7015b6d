"""What the trainings of the demo's models share: loop, pictures, words and the small LLM."""

import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from pipeline.demo import world
from pipeline.demo.world import Edit, Scene
from pipeline.installation import SHIPPED
from pipeline.printable import echo

MODELS = SHIPPED / "data" / "models"


MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


PROMPT = "a photo of"


SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]


def train(
    parameters: list[Tensor],
    loss_of: Callable[[random.Random], Tensor],
    save: Callable[[dict[str, Any]], None],
    steps: int,
    rate: float,
    seed: int,
    every: int = 500,
) -> None:
    """Minimise ``loss_of`` with AdamW, warm-up and cosine decay; ``save`` now and at the end."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.02, betas=(0.9, 0.98))
    start, losses, recent = time.monotonic(), [], []
    for step in range(1, steps + 1):
        scale = min(step / 200, 0.5 * (1 + math.cos(math.pi * step / steps)) + 0.01)
        for group in optimizer.param_groups:
            group["lr"] = rate * scale
        loss = loss_of(rng)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        recent.append(loss.item())
        if step % 100 == 0:
            losses.append((step, round(float(np.mean(recent)), 4)))
            seconds = time.monotonic() - start
            echo(f"step {step} loss {losses[-1][1]} {seconds / step:.3f} s a step")
            recent = []
        if step % every == 0 or step == steps:
            save(
                {
                    "steps": step,
                    "of_steps": steps,
                    "seed": seed,
                    "learning_rate": rate,
                    "seconds": round(time.monotonic() - start),
                    "threads": torch.get_num_threads(),
                    "losses": losses,
                    "versions": {
                        "torch": torch.__version__,
                        "transformers": transformers.__version__,
                        "open_clip": open_clip.__version__,
                    },
                }
            )


def history(start: Path | None) -> dict[str, Any]:
    """Return the record of the training that this one goes on from."""
    if start is None:
        return {}
    return {"started_from": json.loads((start / "training.json").read_text())}


def pixels(scenes: list[Scene], rng: random.Random) -> Tensor:
    """Render scenes to normalised float32 (n, 3, 64, 64)."""
    images = [np.asarray(world.render(scene, rng.getrandbits(32))) for scene in scenes]
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    return (stacked - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def tokenizer(
    extra: list[str], template: str | None, more: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """Return a word-level tokenizer of the world's words and of ``more``.

    ``extra`` are special tokens, which decoding may skip; ``template`` wraps every text.
    """
    words = [
        *SPECIAL,
        *extra,
        *world.vocabulary(),
        *["photo", "image", "content", "instruction", ":", ","],
        *more,
    ]
    words = list(dict.fromkeys(words))
    inner = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace(Regex(r"\s+"), " ")]
    )
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if template:
        inner.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
    )
    if extra:
        wrapped.add_special_tokens({"additional_special_tokens": extra})
    return wrapped


def said(scene: Scene, rng: random.Random) -> str:
    """Return a partial description, or half of the time a full one told in either order."""
    if rng.random() < 0.5:
        return world.mention(scene, rng).text()
    return (scene.swapped() if len(scene.groups) == 2 and rng.random() < 0.5 else scene).text()


def training_edit(rng: random.Random) -> tuple[Scene, Edit]:
    """Return a scene and a change of it, neither before nor after it held out."""
    while True:
        scene = world.training_scene(rng)
        edit = world.random_edit(scene, rng)
        if rng.random() < 0.25:
            edit = world.joined_edit(scene, rng)
        if not world.held_out(edit.apply(scene)):
            return scene, edit


def captioned(scene: Scene, rng: random.Random) -> Scene:
    """Return a description of a scene that is now and then wrong about an attribute.

    So a captioner is; an edit still wins.
    """
    seen = scene
    if rng.random() < 0.15:
        seen = world.random_edit(scene, rng).apply(scene)
    return world.mention(seen.canonical(), rng)


def variants(rng: random.Random, count: int) -> Iterator[Scene]:
    """Yield training scenes in fours that differ by one edit: hard negatives of one another."""
    for _ in range(count // 4):
        base = world.training_scene(rng)
        made = [base]
        while len(made) < 4:
            other = world.random_edit(base, rng).apply(base).canonical()
            if not world.held_out(other) and other not in made:
                made.append(other)
        yield from made


LABELS = [len(world.SHAPES) + 1, len(world.COLOURS) + 1, 5, 3] * 2 + [5, len(world.BACKGROUNDS)]
"""How many classes each of a scene's attributes has."""


def attributes(scene: Scene) -> list[int]:
    """Return the scene's attributes as class numbers; 0 stands for a missing second group."""
    numbers: list[int] = []
    for place in range(2):
        if place < len(scene.groups):
            group = scene.groups[place]
            numbers += [
                world.SHAPES.index(group.shape) + 1,
                list(world.COLOURS).index(group.colour or "") + 1,
                group.count or 0,
                list(world.SIZES).index(group.size or "") + 1,
            ]
        else:
            numbers += [0, 0, 0, 0]
    relation = world.RELATIONS.index(scene.relation) + 1 if scene.relation else 0
    return [*numbers, relation, world.BACKGROUNDS.index(scene.background or "white")]


CHAT = (
    "{% for message in messages %}<|{{ message['role'] }}|> {{ message['content'] }} </s>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def carry_over(
    earlier: PreTrainedTokenizerFast, old: Tensor, words: PreTrainedTokenizerFast, new: Tensor
) -> None:
    """Copy the rows of ``old`` (a vocabulary's embeddings) to ``new``, word by word, in place."""
    known = earlier.get_vocab()
    for word, row in words.get_vocab().items():
        if word in known:
            new.data[row] = old[known[word]]


def llama(words: PreTrainedTokenizerFast) -> transformers.LlamaConfig:
    """Return the architecture of the small LLM, which the verifier shares."""
    return transformers.LlamaConfig(
        vocab_size=len(words),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=False,
    )


def load_llama(model: Any, words: PreTrainedTokenizerFast, folder: Path, prefix: str = "") -> None:
    """Copy the weights of a small LLM into ``model``, whose vocabulary may be another."""
    earlier = PreTrainedTokenizerFast.from_pretrained(folder)
    weights = {
        n.removeprefix("model."): w for n, w in load_file(folder / "model.safetensors").items()
    }
    own = model.state_dict()
    for name, tensor in weights.items():
        place = own["lm_head.weight" if name == "lm_head.weight" else f"{prefix}{name}"]
        if len(tensor) == len(earlier):
            carry_over(earlier, tensor.float(), words, place)
        else:
            place.copy_(tensor)


def answer_loss(
    model: Any,
    words: PreTrainedTokenizerFast,
    asked: Sequence[str],
    answers: Sequence[str],
    watched: list[Any] | None = None,
) -> Tensor:
    """Return a causal LLM's mean cross-entropy over the tokens of the answers alone, a scalar.

    ``asked`` are rendered chats, up to where the assistant begins. ``watched`` is given the token
    ids and the attention of every layer.
    """
    starts = [len(ids) for ids in words(list(asked), add_special_tokens=False)["input_ids"]]
    texts = [f"{a} {answer} </s>" for a, answer in zip(asked, answers, strict=True)]
    batch = words(
        texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False
    )
    ids, mask = batch["input_ids"], batch["attention_mask"]
    place = torch.arange(ids.shape[1])
    hidden = (mask == 0) | (place[None] < torch.tensor(starts)[:, None])
    labels = ids.masked_fill(hidden, -100)
    watching = watched is not None
    made = model(
        input_ids=ids, attention_mask=mask, labels=labels, output_attentions=watching or None
    )
    if watched is not None:
        watched += [ids, made.attentions]
    loss: Tensor = made.loss
    return loss

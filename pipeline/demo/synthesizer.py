"""Trains the demo's LLM that writes modification texts, on prompts of ``prompts/synthesize``."""

import json
import random
import re
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from pipeline.demo import differences, world
from pipeline.demo.differences import difference
from pipeline.demo.training import (
    CHAT,
    MODELS,
    answer_loss,
    history,
    llama,
    load_llama,
    tokenizer,
    train,
)
from pipeline.demo.world import Scene
from pipeline.models.prompts import synthesize as prompts
from pipeline.store.files import write_json

SHARES = {"demo-difference": 0.75, "demo-edit": 0.15, "demo-short": 0.1}
"""The prompts, and how much of the training is about each."""
WORDS = ("other", "difference", "edit", "short", "text", "text_reverse", "target_caption")
MARKS = ("{", "}", '"', ".", ":", ",")


def train_synthesizer(out: Path, steps: int, seed: int, rate: float, start: Path | None) -> None:
    """Train a small Llama on chats of three prompts; the loss is on the answer alone.

    It goes on from ``start``, or from the LLM that edits, which knows the words.
    """
    asking = {name: prompts.load(name) for name in SHARES}
    words = tokenizer(
        ["<|system|>", "<|user|>", "<|assistant|>"],
        None,
        [*WORDS, *MARKS, *differences.vocabulary()],
    )
    words.chat_template = CHAT
    earlier = history(start)
    torch.manual_seed(seed)
    model: Any = transformers.LlamaForCausalLM(llama(words))
    load_llama(model, words, start or MODELS / "llm", "model.")
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=1, eos_token_id=2, pad_token_id=0
    )

    def loss_of(rng: random.Random) -> Tensor:
        (name,) = rng.choices(list(SHARES), list(SHARES.values()))
        examples = [example(name, rng) for _ in range(32)]
        asked = words.apply_chat_template(
            [asking[name].messages(given) for given, _ in examples],
            add_generation_prompt=True,
            tokenize=False,
        )
        return answer_loss(model, words, asked, [spaced(answer) for _, answer in examples])

    def save(record: dict[str, Any]) -> None:
        model.save_pretrained(out)
        words.save_pretrained(out)
        write_json(out / "training.json", record | earlier)

    train(list(model.parameters()), loss_of, save, steps, rate, seed)


def example(name: str, rng: random.Random) -> tuple[dict[str, str], dict[str, str]]:
    """Return what a prompt of that name is given, and the right answer; of training scenes only."""
    if name == "demo-edit":
        said = world.mention(world.training_scene(rng).canonical(), rng)
        edit = world.random_edit(differences.filled(said, rng), rng)
        made = {"text": edit.text, "target_caption": edit.apply(said).text()}
        return {"source": said.text()}, made
    before, after = pair(rng)
    if name == "demo-short":
        return {"text": differences.at_length(before, after)}, {"text": difference(before, after)}
    made = {"text": difference(before, after), "text_reverse": difference(after, before)}
    return {"source": before.text(), "target": after.text()}, made


def pair(rng: random.Random, held_out: bool = False) -> tuple[Scene, Scene]:
    """Return the descriptions of two scenes that are some edits apart, or of any two."""
    first = second = _scene(rng, held_out)
    while second == first or world.held_out(second) != held_out:
        if rng.random() < 0.15:
            second = _scene(rng, held_out)
            continue
        second = first
        for _ in range(rng.choice((1, 1, 2, 3))):
            second = world.random_edit(second, rng).apply(second).canonical()
    return world.mention(first, rng), world.mention(second, rng)


def _scene(rng: random.Random, held_out: bool) -> Scene:
    while world.held_out(scene := world.random_scene(rng)) != held_out:
        pass
    return scene


def spaced(answer: dict[str, str]) -> str:
    """Return an answer as JSON, with a space around each of the vocabulary's words."""
    return " ".join(re.findall(r"\w+|[^\w\s]", json.dumps(answer)))

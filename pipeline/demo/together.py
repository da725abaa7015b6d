"""The demo's LLM that edits all captions of a query by one call, and one caption by a call, too.

The demo's own answers single captions alone; this one is measured against itself, asked either way.
"""

import random
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor

from pipeline.demo import world
from pipeline.demo.training import (
    CHAT,
    MODELS,
    answer_loss,
    captioned,
    history,
    llama,
    load_llama,
    tokenizer,
    train,
    training_edit,
)
from pipeline.models.prompts import edit as prompts
from pipeline.store.files import write_json

PROMPT = "demo-together"
MOST = 15
"""Captions of one call."""
ROOM = 800
"""Tokens that prompt and answer may have: 15 captions of the longest need some 500."""
CAPTIONS = 96
"""About so many captions are in a batch, in calls of as many each."""


class Example(NamedTuple):
    """A call: the captions of an image and a change, with what becomes of each."""

    captions: list[str]
    relative_caption: str
    edits: list[str]


def example(rng: random.Random, count: int) -> Example:
    """Return a call about ``count`` captions, fewer where some are equal.

    Captions of one image are so alike that mixing them is hardly ever wrong; half of the calls are
    about several images, so that it pays to keep to each.
    """
    scene, edit = training_edit(rng)
    strangers = rng.random() < 0.5
    shown = [world.training_scene(rng) if strangers else scene for _ in range(count)]
    described = [captioned(one, rng) for one in shown]
    told = {caption.text(): edit.apply(caption).text() for caption in described}
    return Example(list(told), edit.text, list(told.values()))


def words() -> transformers.PreTrainedTokenizerFast:
    """Return the tokenizer: the LLM's words with numbers, and what JSON needs between them."""
    made = tokenizer(
        ["<|system|>", "<|user|>", "<|assistant|>"],
        None,
        ['"', '{"', '":', '",', '"}', *prompts.numbers(MOST)],
    )
    made.chat_template = CHAT
    return made


def attention_loss(words: transformers.PreTrainedTokenizerFast, ids: Tensor, seen: Any) -> Tensor:
    """Return how little a few heads look where a list is copied from, a scalar.

    ``ids`` (calls, tokens) are prompts with their answers, ``seen`` the attention of every layer,
    (calls, heads, tokens, tokens) each. A head of the first layer is to look at the number before
    a text, and one of each layer behind it, within an edit, at the caption of that number.
    """
    number = {words.convert_tokens_to_ids(n): int(n) for n in prompts.numbers(MOST)}
    opens, closes = words.convert_tokens_to_ids(['{"', '"}'])
    of, at, part = (torch.zeros(ids.shape, dtype=torch.long) for _ in range(3))
    for row, tokens in enumerate(ids.tolist()):
        current = place = opened = 0
        for column, token in enumerate(tokens):
            if token == opens:
                opened += 1
            elif token in number:
                current, place = number[token], column
            of[row, column], at[row, column], part[row, column] = current, place, opened
            current = 0 if token == closes else current
    inside = of > 0
    own = torch.nn.functional.one_hot(at, ids.shape[1]).bool()
    asked = (of[:, :, None] == of[:, None, :]) & (part == 1)[:, None, :]
    answering = inside & (part == 2)
    found = [_missed(seen[0][:, 0], own, inside)]
    found += [_missed(layer[:, 0], asked, answering) for layer in seen[1:]]
    return torch.stack(found).mean()


def _missed(seen: Tensor, wanted: Tensor, rows: Tensor) -> Tensor:
    """Return the mean negative logarithm of the attention that is on what is wanted."""
    share: Tensor = (seen * wanted).sum(-1)[rows]
    return -share.clamp(min=1e-4).log().mean()


def train_together(out: Path, steps: int, seed: int, rate: float, start: Path | None) -> None:
    """Go on from the demo's LLM, on calls about one caption and about all; the loss is on answers.

    Where ``start`` is given it is gone on from that instead.
    """
    single, together = prompts.load("demo"), prompts.load(PROMPT)
    vocabulary = words()
    earlier = history(start or MODELS / "llm")
    torch.manual_seed(seed)
    config = llama(vocabulary)
    config.max_position_embeddings = ROOM
    config._attn_implementation = "eager"
    model: Any = transformers.LlamaForCausalLM(config)
    load_llama(model, vocabulary, start or MODELS / "llm", "model.")
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=1, eos_token_id=2, pad_token_id=0
    )

    def loss_of(rng: random.Random) -> Tensor:
        count = rng.randint(0, MOST)
        alone = count == 0
        examples = [example(rng, max(count, 1)) for _ in range(min(32, CAPTIONS // max(count, 1)))]
        asked = vocabulary.apply_chat_template(
            [
                single.messages(one.captions[0], one.relative_caption)
                if alone
                else together.messages_of(one.captions, one.relative_caption)
                for one in examples
            ],
            add_generation_prompt=True,
            tokenize=False,
        )
        answers = [one.edits[0] if alone else prompts.as_json(one.edits) for one in examples]
        if alone:
            return answer_loss(model, vocabulary, asked, answers)
        watched: list[Any] = []
        loss = answer_loss(model, vocabulary, asked, answers, watched)
        return loss + attention_loss(vocabulary, *watched)

    def save(record: dict[str, Any]) -> None:
        model.save_pretrained(out)
        vocabulary.save_pretrained(out)
        write_json(out / "training.json", record | earlier)

    train(list(model.parameters()), loss_of, save, steps, rate, seed, every=100)

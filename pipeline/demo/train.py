"""Trains the demo's models from scratch on rendered scenes that are not held out.

``python -m pipeline.demo.train clip|captioner|llm`` writes each in the format of the real ones:
an open_clip folder, a ``Blip2ForConditionalGeneration`` with its processor, and a Llama chat model.
"""

import json
import math
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import open_clip
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from pipeline import prompts
from pipeline.cache import write_json
from pipeline.demo import world
from pipeline.demo.roles import roles
from pipeline.demo.world import Scene
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


def train_clip(out: Path, steps: int, seed: int, rate: float, start: Path | None) -> None:
    """Train a CLIP of open_clip's own class by its contrastive loss."""
    config = {
        "embed_dim": 128,
        "vision_cfg": {
            "image_size": 64,
            "patch_size": 16,
            "width": 128,
            "layers": 4,
            "head_width": 32,
        },
        "text_cfg": {
            "context_length": 32,
            "vocab_size": 49408,
            "width": 96,
            "heads": 3,
            "layers": 3,
        },
    }
    earlier = history(start)
    torch.manual_seed(seed)
    model = open_clip.CLIP(**config, output_dict=False)
    tokenize = open_clip.SimpleTokenizer(context_length=32)
    if start:
        weights = load_file(start / "open_clip_model.safetensors")
        model.load_state_dict({name: value.float() for name, value in weights.items()})
    parameters = list(model.parameters())

    def loss_of(rng: random.Random) -> Tensor:
        scenes = list(variants(rng, 128))
        texts = tokenize([said(scene, rng) for scene in scenes])
        images, words, scale = model(pixels(scenes, rng), texts)
        logits = scale.clamp(max=100) * images @ words.T
        target = torch.arange(len(scenes))
        cross = torch.nn.functional.cross_entropy
        return (cross(logits, target) + cross(logits.T, target)) / 2

    def save(record: dict[str, Any]) -> None:
        out.mkdir(parents=True, exist_ok=True)
        weights = {k: v.half().contiguous() for k, v in model.state_dict().items()}
        save_file(weights, out / "open_clip_model.safetensors")
        preprocess = {"size": 64, "mean": MEAN, "std": STD, "interpolation": "bicubic"}
        write_json(
            out / "open_clip_config.json", {"model_cfg": config, "preprocess_cfg": preprocess}
        )
        write_json(out / "training.json", record | earlier)

    train(parameters, loss_of, save, steps, rate, seed)


def train_captioner(out: Path, steps: int, seed: int, rate: float, start: Path | None) -> None:
    """Train a small BLIP-2 (ViT, Q-Former, OPT) on partial descriptions by cross-entropy.

    A head that names the attributes from the Q-Former's output speeds up the start; it is dropped.
    """
    words = tokenizer([], "<s> $A")
    image_processor = transformers.BlipImageProcessor(
        size={"height": 64, "width": 64}, image_mean=MEAN, image_std=STD, do_convert_rgb=True
    )
    queries = 8
    processor = transformers.Blip2Processor(image_processor, words, num_query_tokens=queries)
    image_token = words.convert_tokens_to_ids("<image>")
    config = transformers.Blip2Config(
        vision_config={
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": 64,
            "patch_size": 16,
        },
        qformer_config={
            "vocab_size": len(words),
            "hidden_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 384,
            "encoder_hidden_size": 128,
            "cross_attention_frequency": 1,
            "max_position_embeddings": 32,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
        text_config={
            "model_type": "opt",
            "vocab_size": len(words),
            "hidden_size": 128,
            "num_hidden_layers": 3,
            "ffn_dim": 384,
            "num_attention_heads": 4,
            "word_embed_proj_dim": 128,
            "max_position_embeddings": 64,
            "dropout": 0.0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        num_query_tokens=queries,
        image_token_index=image_token,
    )
    earlier = history(start)
    torch.manual_seed(seed)
    model: Any = transformers.Blip2ForConditionalGeneration(config)
    torch.nn.init.normal_(model.query_tokens, std=0.5)
    if start:
        model = transformers.Blip2ForConditionalGeneration.from_pretrained(start)
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=1, eos_token_id=2, pad_token_id=0
    )
    head = torch.nn.Linear(queries * 128, sum(LABELS))
    parameters = [*model.parameters(), *head.parameters()]
    model.train()

    def loss_of(rng: random.Random) -> Tensor:
        scenes = [world.training_scene(rng) for _ in range(64)]
        texts = [f"{PROMPT} {world.mention(scene, rng).text()} </s>" for scene in scenes]
        batch = words(texts, return_tensors="pt", padding=True, padding_side="right")
        ids = torch.cat([torch.full((len(texts), queries), image_token), batch["input_ids"]], 1)
        mask = torch.cat([torch.ones(len(texts), queries), batch["attention_mask"]], 1).long()
        prompt = queries + 1 + len(PROMPT.split())
        answer = ids.masked_fill(mask == 0, -100)
        answer[:, :prompt] = -100
        output = model(
            pixel_values=pixels(scenes, rng), input_ids=ids, attention_mask=mask, labels=answer
        )
        named = head(output.qformer_outputs.last_hidden_state.flatten(1)).split(LABELS, dim=1)
        truth = torch.tensor([attributes(scene) for scene in scenes])
        cross = torch.nn.functional.cross_entropy
        extra = sum(cross(logits, truth[:, i]) for i, logits in enumerate(named)) / len(LABELS)
        loss: Tensor = output.loss + 0.5 * extra
        return loss

    def save(record: dict[str, Any]) -> None:
        model.save_pretrained(out)
        processor.save_pretrained(out)
        write_json(out / "training.json", record | earlier)

    train(parameters, loss_of, save, steps, rate, seed)


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


def edit_example(rng: random.Random) -> tuple[Scene, str, Scene]:
    """Return a description, a relative caption and the edited description, of training scenes only.

    Now and then the caption is wrong about an attribute, as a captioner is; the edit still wins.
    """
    while True:
        scene = world.training_scene(rng)
        edit = world.random_edit(scene, rng)
        if rng.random() < 0.25:
            edit = world.joined_edit(scene, rng)
        if not world.held_out(edit.apply(scene)):
            break
    seen = scene
    if rng.random() < 0.15:
        seen = world.random_edit(scene, rng).apply(scene)
    described = world.mention(seen.canonical(), rng)
    return described, edit.text, edit.apply(described)


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


def train_llm(out: Path, steps: int, seed: int, rate: float, start: Path | None) -> None:
    """Train a small Llama on chats of two prompts, ``demo`` and ``demo-roles``, half each.

    The loss is on the answer alone.
    """
    asking = {name: prompts.load(name) for name in ("demo", "demo-roles")}
    words = tokenizer(
        ["<|system|>", "<|user|>", "<|assistant|>"],
        None,
        ["roles", "target", *prompts.ROLES, "{", "}", "[", "]", '"'],
    )
    words.chat_template = CHAT
    earlier = history(start)
    torch.manual_seed(seed)
    model: Any = transformers.LlamaForCausalLM(llama(words))
    if start:
        load_llama(model, words, start, "model.")
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=1, eos_token_id=2, pad_token_id=0
    )

    def loss_of(rng: random.Random) -> Tensor:
        name = rng.choice(list(asking))
        examples = [edit_example(rng) for _ in range(64)]
        asked = words.apply_chat_template(
            [asking[name].messages(caption.text(), relative) for caption, relative, _ in examples],
            add_generation_prompt=True,
            tokenize=False,
        )
        starts = [len(ids) for ids in words(asked, add_special_tokens=False)["input_ids"]]
        answers = [
            after.text() if name == "demo" else roles_answer(before, after)
            for before, _, after in examples
        ]
        texts = [f"{a} {answer} </s>" for a, answer in zip(asked, answers, strict=True)]
        batch = words(
            texts,
            return_tensors="pt",
            padding=True,
            padding_side="right",
            add_special_tokens=False,
        )
        place = torch.arange(batch["input_ids"].shape[1])
        hidden = (batch["attention_mask"] == 0) | (place[None] < torch.tensor(starts)[:, None])
        labels = batch["input_ids"].masked_fill(hidden, -100)
        loss: Tensor = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels
        ).loss
        return loss

    def save(record: dict[str, Any]) -> None:
        model.save_pretrained(out)
        words.save_pretrained(out)
        write_json(out / "training.json", record | earlier)

    train(list(model.parameters()), loss_of, save, steps, rate, seed)


def roles_answer(before: Scene, after: Scene) -> str:
    """Return the structured answer as JSON, with a space around each of the vocabulary's words."""
    answer = {"target": after.text(), **roles(before, after)}
    return " ".join(re.findall(r"\w+|[^\w\s]", json.dumps(answer)))


def _train_verifier(out: Path, steps: int, seed: int, rate: float, start: Path | None) -> None:
    from pipeline.demo.verifier import train_verifier  # which needs this module

    train_verifier(out, steps, seed, rate, start)


TRAINERS = {
    "clip": (train_clip, 1e-3),
    "captioner": (train_captioner, 1e-3),
    "llm": (train_llm, 2e-3),
    "verifier": (_train_verifier, 1e-3),
}
"""How to train each model, and at which learning rate."""


@click.command()
@click.argument("model", type=click.Choice(list(TRAINERS)))
@click.option("--out", type=click.Path(path_type=Path), default=MODELS, show_default=True)
@click.option("--steps", type=int, default=4000, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--rate", type=float, help="peak learning rate; default: the model's own")
@click.option(
    "--start", type=click.Path(path_type=Path), help="folder of models to go on from, not anew"
)
@click.option("--threads", type=int, default=2, show_default=True)
def main(
    model: str,
    out: Path,
    steps: int,
    seed: int,
    rate: float | None,
    start: Path | None,
    threads: int,
) -> None:
    """Train one of the demo's models, from scratch or from --start."""
    torch.set_num_threads(threads)
    trainer, usual = TRAINERS[model]
    trainer(out / model, steps, seed, rate or usual, start / model if start else None)


if __name__ == "__main__":
    main()

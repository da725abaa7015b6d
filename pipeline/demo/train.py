"""Trains the demo's models from scratch on rendered scenes that are not held out.

``python -m pipeline.demo.train clip|captioner|llm|verifier|synthesizer|phi`` writes each in the
format of the real ones: an open_clip folder, a ``Blip2ForConditionalGeneration`` with its
processor, a Llama chat model, a Llava one, another Llama, and a φ of LinCIR.
"""

import json
import random
import re
from pathlib import Path
from typing import Any

import click
import open_clip
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.demo import world
from pipeline.demo.composer import train_composer
from pipeline.demo.embedder import train_embedder
from pipeline.demo.phi import train_phi
from pipeline.demo.roles import roles
from pipeline.demo.synthesizer import train_synthesizer
from pipeline.demo.together import train_together
from pipeline.demo.training import (
    CHAT,
    LABELS,
    MEAN,
    MODELS,
    PROMPT,
    STD,
    answer_loss,
    attributes,
    captioned,
    history,
    llama,
    load_llama,
    pixels,
    said,
    tokenizer,
    train,
    training_edit,
    variants,
)
from pipeline.demo.verifier import train_verifier
from pipeline.demo.world import Scene
from pipeline.models.prompts import edit as prompts
from pipeline.store.files import write_json


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


def edit_example(rng: random.Random) -> tuple[Scene, str, Scene]:
    """Return a description, a relative caption and the edited description, of training scenes."""
    scene, edit = training_edit(rng)
    described = captioned(scene, rng)
    return described, edit.text, edit.apply(described)


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
        answers = [
            after.text() if name == "demo" else roles_answer(before, after)
            for before, _, after in examples
        ]
        return answer_loss(model, words, asked, answers)

    def save(record: dict[str, Any]) -> None:
        model.save_pretrained(out)
        words.save_pretrained(out)
        write_json(out / "training.json", record | earlier)

    train(list(model.parameters()), loss_of, save, steps, rate, seed)


def roles_answer(before: Scene, after: Scene) -> str:
    """Return the structured answer as JSON, with a space around each of the vocabulary's words."""
    answer = {"target": after.text(), **roles(before, after)}
    return " ".join(re.findall(r"\w+|[^\w\s]", json.dumps(answer)))


TRAINERS = {
    "clip": (train_clip, 1e-3),
    "captioner": (train_captioner, 1e-3),
    "llm": (train_llm, 2e-3),
    "verifier": (train_verifier, 1e-3),
    "synthesizer": (train_synthesizer, 1e-3),
    "together": (train_together, 1e-3),
    "embedder": (train_embedder, 1e-3),
    "phi": (train_phi, 2e-3),
    "composer": (train_composer, 1e-3),
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

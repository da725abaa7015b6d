"""Measures the demo's models on held-out scenes: ``python -m pipeline.demo.evaluate``."""

import random
from pathlib import Path
from typing import Any

import click
import torch

from pipeline import config, llms, prompts
from pipeline.cache import write_json
from pipeline.captioners.blip2 import Blip2
from pipeline.clip import Clip
from pipeline.config import CaptionerConfig, ClipConfig, LlmConfig, RuntimeConfig
from pipeline.demo import world
from pipeline.demo.train import MODELS
from pipeline.demo.world import Scene

RUNTIME = RuntimeConfig(caption_batch=32, edit_batch=256, embed_batch=256)


def held_out_scenes(count: int, seed: int) -> list[Scene]:
    """Return ``count`` distinct scenes with attribute combinations that training never shows."""
    rng = random.Random(seed)
    scenes: dict[Scene, None] = {}
    while len(scenes) < count:
        scene = world.random_scene(rng)
        if world.held_out(scene):
            scenes[scene] = None
    return list(scenes)


def claims(caption: Scene, scene: Scene) -> list[bool]:
    """Return, for each attribute that ``caption`` claims, whether it is true of ``scene``."""
    true = []
    for said in caption.groups:
        shown = scene.group(said.shape)
        true.append(shown is not None)
        for attribute in ("count", "size", "colour"):
            value = getattr(said, attribute)
            if value is not None:
                true.append(shown is not None and getattr(shown, attribute) == value)
    if caption.relation and len(caption.groups) == 2:
        order = (caption.groups[0].shape, caption.groups[1].shape)
        shown_order = tuple(group.shape for group in scene.groups)
        if shown_order == order:
            true.append(caption.relation == scene.relation)
        elif shown_order == order[::-1]:
            true.append(world.OPPOSITE[caption.relation] == scene.relation)
        else:
            true.append(False)
    if caption.background:
        true.append(caption.background == scene.background)
    return true


def measure_captioner(model: Path, count: int = 300) -> dict[str, Any]:
    """Return attribute accuracy of sampled captions, and how many of 15 differ."""
    settings = config.load("demo").captioner.model_copy(update={"model": str(model)})
    captioner = Blip2(CaptionerConfig.model_validate(settings.model_dump()), RUNTIME)
    scenes = held_out_scenes(count, seed=1)
    right, total, distinct, understood, texts = 0, 0, 0, 0, 0
    for start in range(0, count, 50):
        batch = scenes[start : start + 50]
        images = [world.render(scene, start + i) for i, scene in enumerate(batch)]
        names = [str(start + i) for i in range(len(batch))]
        for scene, captions in zip(batch, captioner.caption(names, images), strict=True):
            distinct += len(set(captions))
            for text in captions:
                texts += 1
                caption = world.parse(text)
                if caption is not None:
                    understood += 1
                    true = claims(caption, scene)
                    right, total = right + sum(true), total + len(true)
    return {
        "held_out_images": count,
        "attribute_accuracy_percent": round(100 * right / total, 2),
        "distinct_captions_of_15": round(distinct / count, 2),
        "captions_in_the_worlds_language_percent": round(100 * understood / texts, 2),
    }


def measure_llm(model: Path, count: int = 1000) -> dict[str, Any]:
    """Return how many edits of captions of held-out scenes are exactly right."""
    settings = config.load("demo").llm.model_copy(update={"model": f"transformers:{model}"})
    llm = llms.load(LlmConfig.model_validate(settings.model_dump()), RUNTIME)
    prompt = prompts.load("demo")
    rng = random.Random(2)
    requests, expected = [], []
    for key, scene in enumerate(held_out_scenes(count, seed=2)):
        edit = world.random_edit(scene, rng)
        described = world.mention(scene, rng)
        expected.append(edit.apply(described).text())
        messages = prompt.messages(described.text(), edit.text)
        requests.append(llms.Request(key, messages, prompt.max_tokens, (), 0.0, 0))
    right = sum(
        prompt.clean(answer.text or "") == expected[answer.key] for answer in llm.answer(requests)
    )
    return {"held_out_edits": count, "exact_match_percent": round(100 * right / count, 2)}


def measure_clip(model: Path, count: int = 1000) -> dict[str, Any]:
    """Return text-to-image recall@1 over ``count`` held-out scenes, one image each."""
    settings = config.load("demo").clip.model_copy(update={"model": f"local-dir:{model}"})
    clip = Clip(ClipConfig.model_validate(settings.model_dump()), RUNTIME)
    scenes = held_out_scenes(count, seed=3)
    pixels = torch.stack([clip.preprocess(world.render(s, i)) for i, s in enumerate(scenes)])
    images = torch.nn.functional.normalize(torch.from_numpy(clip.encode_images(pixels)), dim=1)
    texts = torch.from_numpy(clip.encode_texts([scene.text() for scene in scenes]))
    found = (texts @ images.T).argmax(dim=1) == torch.arange(count)
    recall = 100 * found.float().mean().item()
    return {"held_out_gallery": count, "text_to_image_recall@1_percent": round(recall, 2)}


@click.command()
@click.option("--models", type=click.Path(path_type=Path), default=MODELS, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="default: MODELS/evaluation.json")
@click.option("--only", type=click.Choice(["captioner", "llm", "clip"]))
def main(models: Path, out: Path | None, only: str | None) -> None:
    """Measure the demo's models on held-out scenes and record the result."""
    measures = {"captioner": measure_captioner, "llm": measure_llm, "clip": measure_clip}
    results = {}
    for name, measure in measures.items():
        if only in (None, name):
            results[name] = measure(models / name)
            click.echo(f"{name}: {results[name]}")
    if only is None:
        write_json(out or models / "evaluation.json", results)


if __name__ == "__main__":
    main()

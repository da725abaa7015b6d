"""Measures the demo's models on held-out scenes: ``python -m pipeline.demo.evaluate``."""

import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch

from pipeline import config
from pipeline.config import CaptionerConfig, ClipConfig, LlmConfig, RuntimeConfig
from pipeline.demo import differences, synthesizer, verifier, world
from pipeline.demo.embedder import PROMPT
from pipeline.demo.roles import roles
from pipeline.demo.training import MODELS
from pipeline.demo.world import Scene
from pipeline.models import encoders, llms, verifiers
from pipeline.models.captioners._blip2 import Blip2
from pipeline.models.decode import stacked
from pipeline.models.prompts import edit as prompts
from pipeline.models.prompts import embed as embed_prompts
from pipeline.models.prompts import verify as questions_of
from pipeline.models.verifiers import Question
from pipeline.printable import echo
from pipeline.stages import writing
from pipeline.store.files import write_json

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
                    true = world.claims(caption, scene)
                    right, total = right + sum(true), total + len(true)
    return {
        "held_out_images": count,
        "attribute_accuracy_percent": round(100 * right / total, 2),
        "distinct_captions_of_15": round(distinct / count, 2),
        "captions_in_the_worlds_language_percent": round(100 * understood / texts, 2),
    }


def measure_llm(model: Path, count: int = 1000) -> dict[str, Any]:
    """Return how many edits of captions of held-out scenes are exactly right, and how many answers
    with roles name the target, and every role, exactly.
    """
    settings = config.load("demo").llm.model_copy(update={"model": f"transformers:{model}"})
    llm = llms.load(LlmConfig.model_validate(settings.model_dump()), RUNTIME)
    plain, structured = prompts.load("demo"), prompts.load("demo-roles")
    rng = random.Random(2)
    asked = []
    for scene in held_out_scenes(count, seed=2):
        edit = world.random_edit(scene, rng)
        described = world.mention(scene, rng)
        asked.append((described, edit.text, edit.apply(described)))

    def answers(prompt: prompts.Prompt) -> list[str]:
        requests = [
            llms.Request(key, prompt.messages(a.text(), text), prompt.max_tokens, (), 0.0, 0)
            for key, (a, text, _) in enumerate(asked)
        ]
        found = {answer.key: answer.text or "" for answer in llm.answer(requests)}
        return [found[key] for key in range(count)]

    right = sum(
        plain.clean(answer) == after.text()
        for answer, (_, _, after) in zip(answers(plain), asked, strict=True)
    )
    fields = [structured.fields(answer) for answer in answers(structured)]
    truth = [{"target": [b.text()], **roles(a, b)} for a, _, b in asked]
    same = sum(said == expected for said, expected in zip(fields, truth, strict=True))
    return {
        "held_out_edits": count,
        "exact_match_percent": round(100 * right / count, 2),
        "roles_in_json_percent": round(100 * sum(f is not None for f in fields) / count, 2),
        "roles_exact_match_percent": round(100 * same / count, 2),
    }


def measure_clip(model: Path, count: int = 1000) -> dict[str, Any]:
    """Return text-to-image recall@1 over ``count`` held-out scenes, one image each."""
    settings = config.load("demo").clip.model_copy(update={"model": f"local-dir:{model}"})
    clip = encoders.load(ClipConfig.model_validate(settings.model_dump()), RUNTIME)
    scenes = held_out_scenes(count, seed=3)
    pixels = stacked([clip.prepare(world.render(s, i)) for i, s in enumerate(scenes)])
    images = torch.nn.functional.normalize(torch.from_numpy(clip.images(pixels)), dim=1)
    texts = torch.from_numpy(clip.texts([scene.text() for scene in scenes]))
    found = (texts @ images.T).argmax(dim=1) == torch.arange(count)
    recall = 100 * found.float().mean().item()
    return {"held_out_gallery": count, "text_to_image_recall@1_percent": round(recall, 2)}


def measure_embedder(model: Path, count: int = 200, gallery: int = 1000) -> dict[str, Any]:
    """Return recall of targets by a reference image with a change, among ``gallery`` held-out
    scenes, one image each; the reference is masked.
    """
    given = {"clip.model": f"sentence-transformers:{model}"}
    embedder = encoders.load_joint(config.load("demo", given).clip, RUNTIME)
    rng = random.Random(6)
    asked: dict[Scene, tuple[Scene, str]] = {}
    for scene in held_out_scenes(10 * count, seed=6):
        edit = world.random_edit(scene, rng)
        target = edit.apply(scene).canonical()
        if len(asked) < count and target != scene and world.held_out(target):
            asked.setdefault(target, (scene, edit.text))
    references, texts = zip(*asked.values(), strict=True)
    shown = list(dict.fromkeys([*asked, *references, *held_out_scenes(gallery, seed=7)]))[:gallery]
    pixels = stacked([embedder.prepare(world.render(s, i)) for i, s in enumerate(shown)])
    place = {scene: i for i, scene in enumerate(shown)}
    own = [place[scene] for scene in references]
    instruction = embed_prompts.load(PROMPT).instruction
    images, pairs = (
        torch.nn.functional.normalize(torch.from_numpy(made), dim=1)
        for made in (
            embedder.images(pixels),
            embedder.pairs([pixels[i] for i in own], texts, instruction),
        )
    )
    scores = pairs @ images.T
    scores[torch.arange(count), torch.tensor(own)] = -torch.inf
    best = scores.topk(5, dim=1).indices == torch.tensor([place[t] for t in asked])[:, None]
    return {
        "held_out_queries": count,
        "held_out_gallery": len(shown),
        "image_and_text_to_image_recall@1_percent": round(100 * float(best[:, 0].sum()) / count, 2),
        "image_and_text_to_image_recall@5_percent": round(100 * float(best.sum()) / count, 2),
    }


def measure_verifier(model: Path, count: int = 1000) -> dict[str, Any]:
    """Return how many verdicts on held-out scenes are right, of both questions."""
    settings = config.load("demo").verifier.model_copy(update={"model": f"transformers:{model}"})
    judge = verifiers.load(settings, RUNTIME).judge
    found = {}
    kinds = {"demo": verifier.about_caption, "demo-change": verifier.about_change}
    with tempfile.TemporaryDirectory() as folder:
        for name, make in kinds.items():
            rng = random.Random(4)
            examples = [make(rng, held_out=True) for _ in range(count)]
            questions = []
            for key, example in enumerate(examples):
                files = [Path(folder) / f"{key}-{i}.png" for i in range(len(example.scenes))]
                for file, scene in zip(files, example.scenes, strict=True):
                    world.render(scene, rng.getrandbits(32)).save(file)
                questions.append(Question(key, tuple(files), example.text, example.text))
            right = 0
            for verdict in judge(questions_of.load(name), questions):
                said = verdict.probability is not None and verdict.probability >= 0.5
                right += said == examples[verdict.key].answer
            found[f"{name}_right_percent"] = round(100 * right / count, 2)
    return {"held_out_questions": count, **found}


def measure_synthesizer(model: Path, count: int = 500) -> dict[str, Any]:
    """Return how many differences of held-out scenes' descriptions are exactly right, either way,
    how many long texts are made short exactly, and how many edits of captions are JSON.
    """
    settings = config.load("demo", {"synthesize.model": f"transformers:{model}", "llm.attempts": 1})
    rng = random.Random(5)
    pairs = [synthesizer.pair(rng, held_out=True) for _ in range(count)]
    asked: dict[str, list[dict[str, str | None]]] = {
        "demo-difference": [{"source": a.text(), "target": b.text()} for a, b in pairs],
        "demo-short": [{"text": differences.at_length(a, b)} for a, b in pairs],
        "demo-edit": [{"source": a.text()} for a, _ in pairs],
    }
    found: dict[str, list[dict[str, str]]] = {}
    for name, texts in asked.items():
        questions = [writing.Question.of(one) for one in texts]
        writer = writing.Writer.of(settings.model_copy(update={"runtime": RUNTIME}), name)
        answers = {made.question: made.answer or {} for made in writing.answers(writer, questions)}
        found[name] = [answers[question] for question in questions]
    forward = [differences.difference(a, b) for a, b in pairs]
    backward = [differences.difference(b, a) for a, b in pairs]

    def share(name: str, field: str, wanted: list[str]) -> float:
        right = sum(a.get(field, "") == b for a, b in zip(found[name], wanted, strict=True))
        return round(100 * right / count, 2)

    return {
        "held_out_pairs": count,
        "difference_exact_percent": share("demo-difference", "text", forward),
        "reverse_exact_percent": share("demo-difference", "text_reverse", backward),
        "short_exact_percent": share("demo-short", "text", forward),
        "edits_in_json_percent": round(100 * sum(map(bool, found["demo-edit"])) / count, 2),
    }


MEASURES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "captioner": measure_captioner,
    "llm": measure_llm,
    "clip": measure_clip,
    "embedder": measure_embedder,
    "verifier": measure_verifier,
    "synthesizer": measure_synthesizer,
}
"""What measures each of the demo's models, by its folder."""


@click.command()
@click.option("--models", type=click.Path(path_type=Path), default=MODELS, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="default: MODELS/evaluation.json")
@click.option("--only", type=click.Choice(list(MEASURES)))
def main(models: Path, out: Path | None, only: str | None) -> None:
    """Measure the demo's models on held-out scenes and record the result."""
    results = {}
    for name, measure in MEASURES.items():
        if only in (None, name):
            results[name] = measure(models / name)
            echo(f"{name}: {results[name]}")
    if only is None:
        write_json(out or models / "evaluation.json", results)


if __name__ == "__main__":
    main()

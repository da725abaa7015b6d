"""The commands around a run: its machine, its presets and prompts, a server, and the demo."""

import functools
import os
import sys
from pathlib import Path
from typing import Any

import click
import yaml

from pipeline import config
from pipeline.cli.options import (
    Grouped,
    cache_option,
    data_root_option,
    json_option,
    preset_option,
)
from pipeline.cli.overrides import TRY, override_options
from pipeline.cli.printing import print_metrics
from pipeline.cli.registered import complete_preset, complete_prompt, dataset_option
from pipeline.cli.serving import split_arguments, vllm_options
from pipeline.models.prompts import edit as prompts
from pipeline.printable import echo


@click.command("serve-llm")
@click.argument("model")
@click.option("--port", type=click.IntRange(1, 65_535), default=8000, show_default=True)
@click.option(
    "--log",
    "log_file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("cache/vllm.log"),
    show_default=True,
)
@vllm_options
def serve_llm(
    model: str,
    port: int,
    log_file: Path,
    vllm_bin: str | None,
    serve_arguments: tuple[str, ...],
    serve_timeout: float,
) -> None:
    """Keep `vllm serve MODEL` running for many edit stages; Ctrl-C stops all of it.

    Where the server ends by itself, so does this command, with exit code 5.

    Example: seize serve-llm Qwen/Qwen2.5-7B-Instruct --vllm-bin vllm/bin/vllm
    """
    from pipeline.models.serving.vllm import start

    arguments = split_arguments(serve_arguments)
    with start(model, log_file, vllm_bin, arguments, port, serve_timeout) as server:
        try:
            echo(f"{model} is served. Use it with: --llm {model} --llm-url {server.url}")
            server.watch()
        except KeyboardInterrupt:
            echo("Stopping the server.", err=True)


@click.command(cls=Grouped)
@dataset_option(required=False, ending=": look at its files too")
@click.option("--split", help="one split of it; all by default")
@data_root_option
@preset_option
@cache_option
@click.option("--load", is_flag=True, help="load every local model too, which takes its memory")
@override_options
@json_option
def doctor(
    dataset: str | None,
    split: str | None,
    data_root: Path,
    preset: str,
    cache: Path,
    load: bool,
    overrides: dict[str, Any],
    as_json: bool,
) -> None:
    """Check everything that a run needs, and say what to do where something is wrong.

    Packages, device, model files, servers, the dataset's annotations and images, cache and free
    disk. Computes nothing and leaves nothing behind. Exit code 0 if a run can start, else 1.

    Example: seize doctor --config laptop --dataset circo --data-root /data
    """
    from pipeline.doctor import findings as doctor
    from pipeline.doctor.checks import examine

    patient = doctor.Patient(preset, overrides, dataset, split, data_root, cache, load)
    findings = []
    for finding in examine(patient):
        findings.append(finding)
        if not as_json:
            echo(finding.render())
    usable = doctor.usable(findings)
    if as_json:
        from pipeline.run import dump

        echo(dump({"usable": usable, "findings": [each.as_json() for each in findings]}))
    else:
        count = sum(finding.status == "problem" for finding in findings)
        echo("A run can start." if usable else f"Problems: {count}. See -> for what to do.")
    click.get_current_context().exit(0 if usable else 1)


@click.command(cls=Grouped)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("."),
    show_default=True,
    help="where data/demo, cache, submissions and outputs are made",
)
@override_options
@json_option
def demo(folder: Path, overrides: dict[str, Any], as_json: bool) -> None:
    """Run all stages on a small rendered world with the models of this repository.

    The first run renders the world; a second one reuses the cache.
    """
    from tabulate import tabulate

    from pipeline.demo.run import run_demo

    result = run_demo(folder, config.load("demo", overrides))
    if as_json:
        from pipeline.run import dump

        echo(dump(result))
        return
    print_metrics(result["metrics"], False)
    echo("\nSEIZE, with the best lever without further calls, and verified. In percent, with the")
    echo("difference against SEIZE and its 95 % interval; calls and ms by benchmark:\n")
    echo(tabulate(result["levers"], headers="keys", disable_numparse=True))
    echo("\nSubmission files:")
    for file in result["submissions"]:
        echo(f"  {file}")
    echo(f"Contact sheet:\n  {result['contact_sheet']}")
    echo(f"Cost against quality:\n  {result['cost']}")
    echo(f"Next, for instance, a weaker increment:\n  {_program()} {result['next']}")
    echo(f"Search the pictures yourself, on a page:\n  {_program()} {result['page']}")
    echo(f"See what was retrieved, SEIZE beside its best lever:\n  {_program()} {result['report']}")


def _program() -> str:
    """Return how to call this program from here, whether or not its environment is active."""
    return os.path.relpath(Path(sys.executable).parent / "seize")


@click.group("config")
def config_group() -> None:
    """List the presets, or print one in full."""


@config_group.command("list")
@json_option
def config_list(as_json: bool) -> None:
    """List the presets and what each needs."""
    loaded = {name: config.load(name) for name in config.presets()}
    if as_json:
        from pipeline.run import dump

        echo(dump({n: {"description": c.description, "needs": c.needs} for n, c in loaded.items()}))
        return
    for name, preset in loaded.items():
        echo(f"{name}\n    {preset.description}\n    Needs: {preset.needs.strip()}")


@config_group.command("show", cls=Grouped)
@click.argument("preset", default=config.DEFAULT, shell_complete=complete_preset)
@override_options
@json_option
def config_show(preset: str, overrides: dict[str, Any], as_json: bool) -> None:
    """Print PRESET (or a YAML file) with every field, as YAML that --config takes.

    Without PRESET, the one that commands take where none is named.
    """
    settings = config.load(preset, overrides)
    if as_json:
        from pipeline.run import dump

        echo(dump(settings.model_dump()))
    else:
        text = yaml.safe_dump(settings.model_dump(), sort_keys=False, allow_unicode=True)
        echo(text.rstrip())


@click.group("prompts")
def prompts_group() -> None:
    """List the prompts, or show one as the LLM sees it."""


@prompts_group.command("list")
@json_option
def prompts_list(as_json: bool) -> None:
    """List the prompts of the prompts/ folder: of the edit stage, of verify/, of inversion/."""
    from pipeline.models.prompts import inversion
    from pipeline.models.prompts import verify as questions

    loaded: dict[str, Any] = {name: prompts.load(name) for name in prompts.names()}
    loaded |= {f"verify/{name}": questions.load(name) for name in questions.names()}
    loaded |= {f"inversion/{name}": inversion.load(name) for name in inversion.names()}
    if as_json:
        from pipeline.run import dump

        echo(dump({name: prompt.description for name, prompt in loaded.items()}))
        return
    for name, prompt in loaded.items():
        echo(f"{name}\n    {prompt.description}\n    Source: {prompt.source.strip()}")


@prompts_group.command("show")
@click.argument("name", shell_complete=complete_prompt)
@click.option("--caption", default="a brown dog lying on a sofa", show_default=True)
@click.option("--relative-caption", default="is running on a beach", show_default=True)
@json_option
def prompts_show(name: str, caption: str, relative_caption: str, as_json: bool) -> None:
    """Render the prompt NAME (or a YAML file) with a sample caption and relative caption.

    A prompt of the verify stage is named verify/NAME; the caption stands for the edited caption.
    One of textual inversion is named inversion/NAME; the encoder sees it, $ for a pseudo-word.
    """
    from pipeline.models.prompts import inversion
    from pipeline.models.prompts import verify as questions

    if name.startswith("inversion/"):
        form = inversion.load(name.removeprefix("inversion/"))
        said = form.template.replace("{words}", "$").replace("{text}", relative_caption)
        messages: list[dict[str, Any]] = [{"role": "encoder", "content": said}]
    elif name.startswith("verify/"):
        prompt = questions.load(name.removeprefix("verify/"))
        images = [{"type": "text", "text": f"({kind} image)"} for kind in prompt.images]
        messages = prompt.messages(images, caption, relative_caption)
        messages[-1]["content"] = "\n".join(part["text"] for part in messages[-1]["content"])
    else:
        messages = prompts.load(name).messages(caption, relative_caption)
    if as_json:
        from pipeline.run import dump

        echo(dump(messages))
        return
    for message in messages:
        echo(f"[{message['role']}]\n{message['content']}\n")


@prompts_group.command("try", cls=Grouped)
@click.argument("name")
@click.option(
    "--image", type=click.Path(path_type=Path, dir_okay=False), help="the captioner describes it"
)
@click.option("--caption", "text_of_image", help="instead of --image: a caption of yours")
@click.option("--text", "relative_caption", required=True, help="the relative caption")
@click.option("--concept", default="", help="the shared concept, if the prompt uses it")
@preset_option
@functools.partial(override_options, chosen_options=TRY)
@json_option
def prompts_try(
    name: str,
    image: Path | None,
    text_of_image: str | None,
    relative_caption: str,
    concept: str,
    preset: str,
    overrides: dict[str, Any],
    as_json: bool,
) -> None:
    """Ask the LLM with prompt NAME about one image: show what is asked, and raw and clean answers.

    Example: seize prompts try seize --image dog.jpg --text "is running on a beach" --captions 3
    """
    from pipeline.stages.trial import try_prompt

    if (image is None) == (text_of_image is None):
        raise click.UsageError("Give either --image or --caption.")
    settings = config.load(preset, overrides | {"llm.prompt": name})
    prompts.load(name)  # before any model is loaded
    tries = try_prompt(settings, image, text_of_image, relative_caption, concept)
    if as_json:
        from pipeline.run import dump

        echo(dump(tries))
        return
    for one in tries:
        for message in one["messages"]:
            echo(f"[{message['role']}]\n{message['content']}\n")
        echo(f"[raw answer]\n{one['raw']}\n")
        echo(f"[edited caption]\n{one['edited_caption'] or 'none: ' + one['reason']}\n")
        for role in prompts.ROLES if one["roles"] else ():
            echo(f"[{role}]\n" + "\n".join(one["roles"][role]) + "\n")


COMMANDS = (serve_llm, doctor, demo, config_group, prompts_group)

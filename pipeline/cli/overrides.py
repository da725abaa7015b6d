"""Options that override one field of the preset, whichever commands have them."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import click

from pipeline import yamls
from pipeline.cli.registered import COMPLETED

OVERRIDES: dict[str, tuple[str, Any, str]] = {
    "--captioner": ("captioner.model", str, "BLIP-2 checkpoint, or served:NAME at a server"),
    "--captions": ("captioner.samples", int, "captions a reference image"),
    "--seed": ("captioner.seed", int, "seed of the captions"),
    "--llm": ("llm.model", str, "served model's name, or transformers:NAME_OR_PATH in process"),
    "--llm-url": ("llm.url", list, "server, e.g. http://localhost:8000/v1; repeat it for several"),
    "--edits-per-caption": ("llm.edits", int, "edits of each caption; needs --temperature above 0"),
    "--temperature": ("llm.temperature", float, "the LLM's sampling temperature"),
    "--shared-concept": ("dataset.shared_concept", bool, "tell the LLM CIRCO's shared concept"),
    "--captioner-url": ("captioner.url", list, "server of a served:NAME captioner; repeatable"),
    "--prompt": ("llm.prompt", str, "prompt's name (see `seize prompts list`) or YAML file"),
    "--clip": ("clip.model", str, "open_clip model, local-dir:FOLDER or hf-hub:NAME; KIND:NAME"),
    "--clip-url": ("clip.url", list, "server of a served:NAME encoder; repeatable"),
    "--pretrained": ("clip.pretrained", str, "open_clip pretrained tag or weights file"),
    "--verifier": ("verifier.model", str, "served vision model, or transformers:NAME_OR_PATH"),
    "--verifier-url": ("verifier.url", list, "its server; several share the work"),
    "--question": ("verifier.prompt", str, "verify prompt's name or YAML file"),
    "--candidates": ("verifier.candidates", int, "best images a query that are verified"),
    "--no-early-stop": ("verifier.early_stop", bool, "verify all of them, as tuning needs"),
    "--method": ("search.method", str, "retrieval method; search takes a list a,b or all"),
    "--top-k": ("search.top_k", int, "images retrieved a query"),
    "--group-at": (
        "own.group_at",
        float,
        "cosine from which images are near-duplicates, shown as one result",
    ),
    "--index": ("search.index.kind", str, "scan, flat, clusters, faiss-hnsw, faiss-ivf or milvus"),
    "--milvus-url": (
        "runtime.milvus_url",
        str,
        "a Milvus server; by default a file in the cache, open to all users of this machine",
    ),
    "--gallery": ("dataset.gallery", str, "FashionIQ's galleries: split or union"),
    "--both-orders": ("dataset.both_orders", bool, "join its captions in both orders, averaged"),
    "--keep-reference": ("search.exclude_reference", bool, "let the reference be retrieved"),
    "--device": ("runtime.device", str, "auto, cpu, cuda, cuda:1, mps"),
    "--workers": (
        "runtime.workers",
        int,
        "threads or processes that decode images; one a core by default",
    ),
    "--concurrency": ("runtime.concurrency", int, "most requests in flight; chosen by asking"),
    "--strict": ("runtime.strict", bool, "a broken image ends the run instead of being skipped"),
    "--follow-links": ("runtime.follow_links", bool, "read images that link out of their folder"),
    "--allow-pickle": ("runtime.allow_pickle", bool, "load CLIP weights that can run code"),
}
"""Options that override one field of the preset: option to field, type and help; a list repeats."""
SWITCH_OFF = {"--keep-reference", "--no-early-stop"}
"""Flags that set their field to false."""

OWN = ("--group-at",)
"""Overrides that mean nothing to a benchmark."""
EVERY = tuple(option for option in OVERRIDES if option not in OWN)
CLIP = ("--clip", "--pretrained", "--device", "--allow-pickle")
CAPTIONER = ("--captioner", "--captioner-url", "--captions", "--seed")
LLM = ("--llm", "--llm-url", "--temperature", "--concurrency")
INDEX = (*CLIP, "--workers", "--strict")
"""Overrides that matter to the index of one's own images; the others are not offered there."""
QUERY = (
    *(*CAPTIONER, *LLM, "--edits-per-caption", "--prompt"),
    *(*CLIP, "--method", "--top-k", "--keep-reference", *OWN),
)
"""Those that matter to a query of one's own images."""
TRY = (*CAPTIONER, *LLM, "--device")
"""Those that matter where a prompt is tried."""


GROUPS = {
    "captioner": "Captions",
    "llm": "Edits",
    "clip": "Encoder",
    "search": "Search",
    "own": "Search",
    "verifier": "Verification",
    "dataset": "Benchmark",
    "runtime": "This machine",
}
"""What help calls the options of a section of the configuration, in this order."""


class FieldOption(click.Option):
    """An option that overrides a field, which its help names last."""

    title: str = ""
    """Its group in the help."""

    def __init__(self, *names: Any, title: str, **settings: Any) -> None:
        super().__init__(*names, **settings)
        self.title = title


def override_options(
    function: Callable[..., Any], chosen_options: Sequence[str] = EVERY
) -> Callable[..., Any]:
    """Add the options that change a configuration, and hand them on as one ``overrides`` dict.

    ``chosen_options`` are those of ``OVERRIDES`` that the command does something with.
    """
    chosen = {option: rest for option, rest in OVERRIDES.items() if option in chosen_options}

    @functools.wraps(function)
    def wrapper(*args: Any, **values: Any) -> Any:
        overrides: dict[str, Any] = {}
        for option, (field, kind, _) in chosen.items():
            value = values.pop(option[2:].replace("-", "_"))
            if kind is bool:
                if value:
                    overrides[field] = option not in SWITCH_OFF
            elif kind is list:
                if value:
                    overrides[field] = value[0] if len(value) == 1 else list(value)
            elif value is not None:
                overrides[field] = value
        overrides |= dict(_setting(text) for text in values.pop("settings"))
        return function(*args, overrides=overrides, **values)

    for option, (field, kind, text) in reversed(chosen.items()):
        told: dict[str, Any] = {
            "cls": FieldOption,
            "title": GROUPS[field.partition(".")[0]],
            "help": f"{text} [{field}]",
        }
        if kind is bool:
            told |= {"is_flag": True}
        elif kind is list:
            told |= {"multiple": True}
        else:
            told |= {"type": kind, "shell_complete": COMPLETED.get(option)}
        wrapper = click.option(option, **told)(wrapper)
    return click.option(
        "--set", "settings", multiple=True, metavar="FIELD=VALUE", help="any other field"
    )(wrapper)


def _setting(text: str) -> tuple[str, Any]:
    field, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter(f"{text!r} is not FIELD=VALUE", param_hint="--set")
    return field, yamls.parse_yaml(value, f"--set {field}: {value!r}")

"""What the commands share: their options, and how reports and metrics are printed."""

import functools
import logging
import math
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from pipeline import config, yamls
from pipeline.cli.registered import COMPLETED, complete_preset, dataset_option

log = logging.getLogger("seize")

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
    "--index": ("search.index.kind", str, "scan, flat, faiss-hnsw, faiss-ivf or milvus"),
    "--milvus-url": (
        "runtime.milvus_url",
        str,
        "a Milvus server; by default a file in the cache, open to all users of this machine",
    ),
    "--gallery": ("dataset.gallery", str, "FashionIQ's galleries: split or union"),
    "--both-orders": ("dataset.both_orders", bool, "join its captions in both orders, averaged"),
    "--keep-reference": ("search.exclude_reference", bool, "let the reference be retrieved"),
    "--device": ("runtime.device", str, "auto, cpu, cuda, cuda:1, mps"),
    "--workers": ("runtime.workers", int, "processes that decode images; one a core by default"),
    "--concurrency": ("runtime.concurrency", int, "requests in flight; chosen from the server"),
    "--strict": ("runtime.strict", bool, "a broken image ends the run instead of being skipped"),
    "--follow-links": ("runtime.follow_links", bool, "read images that link out of their folder"),
    "--allow-pickle": ("runtime.allow_pickle", bool, "load CLIP weights that can run code"),
}
"""Options that override one field of the preset: option to field, type and help; a list repeats."""
SWITCH_OFF = {"--keep-reference", "--no-early-stop"}
"""Flags that set their field to false."""


SHOWN = 10
"""Images that commands on one's own images show by default."""

CLIP = ("--clip", "--pretrained", "--device", "--allow-pickle")
CAPTIONER = ("--captioner", "--captioner-url", "--captions", "--seed")
LLM = ("--llm", "--llm-url", "--temperature", "--concurrency")
INDEX = (*CLIP, "--workers", "--strict")
"""Overrides that matter to the index of one's own images; the others are not offered there."""
QUERY = (
    *(*CAPTIONER, *LLM, "--edits-per-caption", "--prompt"),
    *(*CLIP, "--method", "--top-k", "--keep-reference"),
)
"""Those that matter to a query of one's own images."""
TRY = (*CAPTIONER, *LLM, "--device")
"""Those that matter where a prompt is tried."""


def override_options(
    function: Callable[..., Any], chosen_options: Sequence[str] = tuple(OVERRIDES)
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
        if kind is bool:
            wrapper = click.option(option, is_flag=True, help=f"{text} [{field}]")(wrapper)
        elif kind is list:
            wrapper = click.option(option, multiple=True, help=f"{text} [{field}]")(wrapper)
        else:
            complete = COMPLETED.get(option)
            wrapper = click.option(
                option, type=kind, help=f"{text} [{field}]", shell_complete=complete
            )(wrapper)
    return click.option(
        "--set", "settings", multiple=True, metavar="FIELD=VALUE", help="any other field"
    )(wrapper)


def _setting(text: str) -> tuple[str, Any]:
    field, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter(f"{text!r} is not FIELD=VALUE", param_hint="--set")
    return field, yamls.parse_yaml(value, f"--set {field}: {value!r}")


class Finite(click.types.FloatParamType):
    """A floating-point number that is neither NaN nor infinite."""

    def convert(self, value: Any, *context: Any) -> Any:
        """Return the number; fails for one that is not finite."""
        return _finite(self, super().convert(value, *context), value, *context)


class FiniteRange(click.FloatRange):
    """A range of floating-point numbers, without NaN, which no comparison keeps out."""

    def convert(self, value: Any, *context: Any) -> Any:
        """Return the number; fails for one that is not finite, or out of range."""
        return _finite(self, super().convert(value, *context), value, *context)


def _finite(kind: click.ParamType[Any, Any], number: Any, value: Any, *context: Any) -> Any:
    if not math.isfinite(number):
        kind.fail(f"{value!r} is not a finite number.", *context)
    return number


data_root_option = click.option(
    "--data-root",
    type=click.Path(path_type=Path),
    default=Path("data"),
    show_default=True,
    help="the benchmark's folder, or the one that holds it",
)

cache_option = click.option(
    "--cache",
    type=click.Path(path_type=Path),
    default=Path("cache"),
    show_default=True,
    help="where stages keep their output",
)

preset_option = click.option(
    "--config",
    "preset",
    metavar="PRESET|FILE",
    shell_complete=complete_preset,
    default=config.DEFAULT,
    show_default=True,
    help="preset (see `seize config list`) or YAML file",
)

own_cache_option = click.option(
    "--cache",
    type=click.Path(path_type=Path),
    help="where features and answers are kept; SEIZE_CACHE, or a folder of yours, by default",
)

own_config_option = click.option(
    "--config",
    "preset",
    metavar="PRESET|FILE",
    shell_complete=complete_preset,
    help="preset (see `seize config list`) or YAML file; by default SEIZE_CONFIG, seize.yaml in "
    "or beside the folder, what the folder was indexed with, your own seize.yaml, or laptop",
)


alpha_options = (
    click.option("--alpha-pos", type=Finite(), help="α⁺, weight of a positive increment"),
    click.option("--alpha-neg", type=Finite(), help="α⁻, weight of a negative increment"),
)


def run_options(
    function: Callable[..., Any], defaults: dict[str, Any] | None = None
) -> Callable[..., Any]:
    """Add the options of every stage and hand them on as a ready ``Run``.

    ``defaults`` are fields that this command sets where neither option nor --set does.
    """

    @functools.wraps(function)
    def wrapper(
        preset: str,
        dataset: str,
        split: str | None,
        data_root: Path,
        cache: Path,
        submissions: Path,
        limit: int | None,
        alpha_pos: float | None,
        alpha_neg: float | None,
        overrides: dict[str, Any],
        **values: Any,
    ) -> Any:
        from pipeline import datasets
        from pipeline.run import Run

        overrides = (defaults or {}) | overrides
        settings = config.load(preset, overrides)
        split = split or datasets.find(dataset).splits[0]
        follow_links = settings.runtime.follow_links
        loaded = datasets.load(dataset, split, data_root, settings.dataset.gallery, follow_links)
        if limit is not None:
            loaded.limit(limit)
        from pipeline.retrieval import methods

        settings = methods.with_increment(settings, dataset, alpha_pos, alpha_neg)
        methods.check(settings, tuple(datasets.known()))
        run = Run(loaded, settings, cache, submissions, given_options(run_options))
        return function(run, **values)

    options = [
        dataset_option(),
        click.option("--split", help="of the benchmark; its first one (val) by default"),
        data_root_option,
        preset_option,
        click.option(
            "--limit",
            type=click.IntRange(1, 1_000_000_000),
            help="first N queries (of each category) only, for a trial",
        ),
        *alpha_options,
        cache_option,
        click.option(
            "--submissions",
            type=click.Path(path_type=Path),
            default=Path("submissions"),
            show_default=True,
            help="where submission files go",
        ),
    ]
    decorated: Callable[..., Any] = override_options(wrapper)
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


def index_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of indexing one's own images; hand on ``settings``, ``cache``, ``remember``.

    ``remember`` keeps what was named, once it was of use.
    """

    @functools.wraps(function)
    def wrapper(
        folder: Path,
        preset: str | None,
        cache: Path | None,
        overrides: dict[str, Any],
        **values: Any,
    ) -> Any:
        own = _own(folder, preset, cache, overrides)
        return function(folder=folder, **own, **values)

    return own_config_option(own_cache_option(override_options(wrapper, INDEX)))


def query_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of querying one's own images; hand on also ``given`` and ``note``.

    ``given`` repeats the options that ``seize index`` takes too, ``note`` says what is missing for
    another method than the one that was chosen.
    """

    @functools.wraps(function)
    def wrapper(
        folder: Path,
        preset: str | None,
        cache: Path | None,
        alpha_pos: float | None,
        alpha_neg: float | None,
        overrides: dict[str, Any],
        **values: Any,
    ) -> Any:
        own = _own(folder, preset, cache, {"search.top_k": SHOWN} | overrides)
        note = None
        if alpha_pos is not None or alpha_neg is not None:
            from pipeline.retrieval import methods

            own["settings"] = methods.with_increment(
                own["settings"], config.OWN_IMAGES, alpha_pos, alpha_neg
            )
        else:
            from pipeline.own import quick

            own["settings"], note = quick.settle(own["settings"], overrides)
        given = given_options(index_options)
        return function(folder=folder, given=given, note=note, **own, **values)

    decorated: Callable[..., Any] = override_options(wrapper, QUERY)
    for option in reversed((own_config_option, *alpha_options, own_cache_option)):
        decorated = option(decorated)
    return decorated


def _own(
    folder: Path, preset: str | None, cache: Path | None, overrides: dict[str, Any]
) -> dict[str, Any]:
    """Return the settings and cache of one's own folder, and how to keep what was named."""
    from pipeline.own import settings

    place = settings.cache_folder(cache)
    return {
        "settings": settings.load(folder, preset, place, overrides),
        "cache": place,
        "remember": functools.partial(settings.remember, folder, preset, place, overrides),
    }


Options = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Adds options to a command."""


def given_options(known: Options) -> str:
    """Return those of the user's options that ``known`` adds, as they were given.

    They belong to the command that an error recommends, which has them too.
    """
    context = click.get_current_context()
    parser = context.command.make_parser(context)
    values, _, order = parser.parse_args(list(context.meta["arguments"]))
    repeated = {name: iter(value) for name, value in values.items() if isinstance(value, list)}
    words: list[str] = []
    for option in order:
        name = option.name
        if name not in _names(known):
            continue
        words.append(option.opts[0])
        if not getattr(option, "is_flag", False):
            words.append(str(next(repeated[name]) if name in repeated else values[name]))
    return shlex.join(words)


@functools.cache
def _names(known: Options) -> set[str]:
    decorated: Any = known(lambda: None)
    return {option.name for option in decorated.__click_params__}


json_option = click.option("--json", "as_json", is_flag=True, help="print the result as JSON")


format_option = click.option(
    "--format",
    "form",
    type=click.Choice(["text", "csv", "markdown", "latex"]),
    default="text",
    show_default=True,
)


class Stage(click.Command):
    """Remembers the arguments as given."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        context.meta["arguments"] = list(args)
        return super().parse_args(context, args)


def vllm_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options about how vLLM is started."""
    options = [
        click.option("--vllm-bin", help="the vllm program; the one on PATH by default"),
        click.option(
            "--serve-arg",
            "serve_arguments",
            multiple=True,
            metavar="ARGUMENT",
            help="for `vllm serve`, e.g. --serve-arg='--max-model-len 1024'",
        ),
        click.option(
            "--serve-timeout",
            type=FiniteRange(min=0, min_open=True, max=config.LONGEST_WAIT),
            default=900.0,
            show_default=True,
            help="seconds until the server must be ready",
        ),
    ]
    return functools.reduce(lambda decorated, option: option(decorated), options, function)


def split_arguments(arguments: tuple[str, ...]) -> list[str]:
    return [word for argument in arguments for word in shlex.split(argument)]

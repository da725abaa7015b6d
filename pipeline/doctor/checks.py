"""What stands in the way of a run, and what to do about it: the checks of ``seize doctor``.

Each check stands alone, so that whatever is broken, the others are still made. Facts come from the
modules that own them; imports are inside the checks, since any of them may be what is broken.
"""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline import installation
from pipeline.errors import SeizeError
from pipeline.installation import INSTALL

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.datasets.base import Dataset

Status = Literal["ok", "warning", "problem"]

NAMED = 5
"""Missing images that are named."""
LITTLE_DISK = 1 << 30
"""Bytes of free disk that are few whatever is planned."""
LITTLE_MEMORY = 2 << 30
"""Bytes of free memory that are few for any model."""
SERVER_TIMEOUT = 60.0
"""Seconds in which a server must answer one edit."""
FIXES = {
    "configuration": "correct it: seize config list, seize config show NAME and seize prompts list",
    "model": "give another: --captioner, --llm, --verifier, or --clip and --pretrained",
    "server": "start it (seize serve-llm MODEL), or give its address with --llm-url",
    "dataset": "correct --dataset, --split and --data-root",
    "disk": "choose another folder with --cache, or mend what the message names",
}
"""What to do about an error that a check ends in; its message says more."""


@dataclass(frozen=True)
class Finding:
    """What one check found, and what to do about it where something is wrong."""

    part: str
    """Installation, device, model, dataset, server or cache."""
    name: str
    status: Status
    found: str
    fix: str = ""

    def as_json(self) -> dict[str, str]:
        """Return the finding as JSON-able data."""
        return asdict(self)

    def render(self) -> str:
        """Return the finding as one line, and one more for what to do."""
        line = f"{self.status:<8} {self.part:<13} {self.name}: {self.found}"
        return f"{line}\n{'':22} -> {self.fix}" if self.fix else line


def usable(findings: Sequence[Finding]) -> bool:
    """Return whether nothing that was found stands in the way."""
    return all(finding.status != "problem" for finding in findings)


@dataclass
class Patient:
    """What is examined: the run's options as given, and what they were read as, where they can."""

    preset: str
    overrides: dict[str, Any]
    dataset: str | None
    split: str | None
    data_root: Path
    cache: Path
    load: bool = False
    """Whether to load every local model, which takes its memory."""
    config: "Config | None" = None
    datasets: "list[Dataset]" = field(default_factory=list)


def examine(patient: Patient, parts: Sequence[str] | None = None) -> Iterator[Finding]:
    """Yield what every check finds, as it is made; of some ``parts`` of ``CHECKS`` alone if given.

    What a check needs of an earlier one (the configuration, the dataset) it does without.
    """
    for part in parts or CHECKS:
        yield from _guarded(part, CHECKS[part](patient))


def installation_only() -> int:
    """Print what is wrong with the installation, where nothing else can be checked; exit code 1."""
    for finding in _guarded("installation", _installation(None)):
        sys.stdout.write(f"{finding.render()}\n")
    sys.stdout.write("Nothing else can be checked before these packages are installed.\n")
    return 1


def _guarded(part: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """Yield the findings of a check; one that ends in an error is a finding too."""
    try:
        yield from findings
    except SeizeError as error:
        yield Finding(part, part, "problem", str(error), FIXES.get(part, INSTALL))
    except Exception as error:  # whatever is broken, the other checks go on
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        fix = f"mend the installation: {INSTALL}"
        yield Finding(part, part, "problem", f"could not be checked ({said})", fix)


# --- installation ---------------------------------------------------------------------------------


def _installation(_: Patient | None) -> Iterator[Finding]:
    version, wanted = platform.python_version(), installation.python_wanted()
    packages = installation.installed()
    if installation.in_range(version, wanted):
        yield Finding("installation", "python", "ok", f"{version} at {sys.executable}")
    else:
        fix = f"make the environment with Python {wanted}"
        yield Finding("installation", "python", "problem", f"{version}, not {wanted}", fix)
    errors = installation.import_errors(
        module for package in packages if package.version for module in package.modules
    )
    good = []
    for package in packages:
        broken = [module for module in package.modules if module in errors]
        fix = f"pip install --force-reinstall '{package.name}{package.wanted}'"
        if package.version is None:
            yield Finding("installation", package.name, "problem", "is not installed", INSTALL)
        elif broken:
            said = f"{package.version} cannot be imported ({errors[broken[0]]})"
            yield Finding("installation", package.name, "problem", said, fix)
        elif not package.in_range:
            said = f"{package.version}; tested with {package.wanted}"
            yield Finding("installation", package.name, "warning", said, INSTALL)
        else:
            good.append(f"{package.name} {package.version}")
    if good:
        said = f"{len(good)} of {len(packages)} as tested: {', '.join(good)}"
        yield Finding("installation", "packages", "ok", said)


# --- configuration --------------------------------------------------------------------------------


def _configuration(patient: Patient) -> Iterator[Finding]:
    from pipeline import config, datasets
    from pipeline.models.prompts import edit as prompts
    from pipeline.models.prompts import verify as questions
    from pipeline.retrieval import indexes, methods
    from pipeline.stages import edit

    patient.config = config.load(patient.preset, patient.overrides)
    method = patient.config.search.method
    edit.check(patient.config)
    methods.selection(method, {})
    methods.check(patient.config, tuple(datasets.known()))
    indexes.check(patient.config.search.index.kind)
    needs = f" It needs: {patient.config.needs.strip()}" if patient.config.needs else ""
    yield Finding("configuration", patient.preset, "ok", f"can be used.{needs}")
    for name in prompts.names():
        prompts.load(name)
    for name in questions.names():
        questions.load(name)
    chosen = prompts.load(patient.config.llm.prompt).name
    questions.load(patient.config.verifier.prompt)
    count = len(prompts.names()) + len(questions.names())
    yield Finding("configuration", "prompts", "ok", f"{chosen!r} and the other {count - 1} parse")


# --- devices --------------------------------------------------------------------------------------


def _device(patient: Patient) -> Iterator[Finding]:
    import psutil
    import torch

    from pipeline.config import resolve_device, resolve_precision

    threads, cores = torch.get_num_threads(), os.cpu_count()
    yield Finding("device", "CPU", "ok", f"{cores} cores, {threads} threads of torch")
    memory = psutil.virtual_memory()
    said = f"{_size(memory.available)} free of {_size(memory.total)}"
    if memory.available < LITTLE_MEMORY:
        fix = "end other programs, or use smaller models: seize config list"
        yield Finding("device", "memory", "warning", said, fix)
    else:
        yield Finding("device", "memory", "ok", said)
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        yield Finding("device", f"cuda:{number}", "ok", f"{name}, {_size(free)} of {_size(total)}")
    if patient.config is None:
        return
    asked = patient.config.runtime.device
    device = resolve_device(asked)
    try:
        torch.ones(1, device=device)
    except (RuntimeError, AssertionError) as error:
        said = f"{asked} cannot be used ({' '.join(str(error).split())[:200]})"
        fix = "--device cpu, or install a torch for your GPU: https://pytorch.org/get-started"
        yield Finding("device", "chosen", "problem", said, fix)
        return
    precision = resolve_precision(patient.config.clip.precision, device)
    if device == "cpu" and not torch.cuda.is_available() and shutil.which("nvidia-smi"):
        fix = "install a torch for CUDA: https://pytorch.org/get-started"
        yield Finding("device", "chosen", "warning", "cpu, though there is an NVIDIA driver", fix)
    else:
        yield Finding("device", "chosen", "ok", f"{device}, CLIP in {precision}")


# --- models ---------------------------------------------------------------------------------------


def _models(patient: Patient) -> Iterator[Finding]:
    """Look at every model that runs in this process: in its folder, or in the hub's cache."""
    if (config := patient.config) is None:
        return
    from pipeline.models import captioners, llms, verifiers
    from pipeline.stages import embed, released

    captioner = config.captioner
    if not (captioner.model.startswith(captioners.SERVED) or released.is_imported(captioner.model)):
        yield from _model("captioner", captioner.model, "--captioner FOLDER", captioner.revision)
        if patient.load:
            yield from _loads("captioner", lambda: captioners.load(captioner, config.runtime))
    if config.llm.model.startswith(llms.IN_PROCESS):
        name = config.llm.model.removeprefix(llms.IN_PROCESS)
        yield from _model("LLM", name, f"--llm {llms.IN_PROCESS}FOLDER")
        if patient.load:
            yield from _loads("LLM", lambda: llms.load(config.llm, config.runtime))
    yield from _guarded("model", _clip(config))
    if patient.load:
        yield from _loads("CLIP", lambda: embed.load_clip(config))
    if config.verifier.model.startswith(llms.IN_PROCESS):
        name = config.verifier.model.removeprefix(llms.IN_PROCESS)
        yield from _model("verifier", name, f"--verifier {llms.IN_PROCESS}FOLDER")
        if patient.load:
            yield from _loads("verifier", lambda: verifiers.load(config.verifier, config.runtime))


def _clip(config: "Config") -> Iterator[Finding]:
    import open_clip

    from pipeline.models.encoders import open_clip as clip

    width = clip.width(config.clip)  # raises for names that open_clip does not know
    scheme, separator, place = config.clip.model.partition(":")
    if separator and scheme in ("local-dir", "hf-hub"):
        yield from _model("CLIP", place, "--clip local-dir:FOLDER")
        return
    name, tag = config.clip.model, config.clip.pretrained or ""
    if Path(tag).is_file():
        size = _size(Path(tag).stat().st_size)
        yield Finding("model", "CLIP", "ok", f"{name}, d = {width}, {tag} ({size})")
        return
    from pipeline.models import weights

    source = open_clip.get_pretrained_cfg(name, tag)
    repository, _, file = source.get("hf_hub", "").rpartition("/")
    names = [file] if file else [weights.WEIGHTS[1], weights.WEIGHTS[3]]
    if repository and any(weights.cached_file(repository, each) for each in names):
        yield Finding("model", "CLIP", "ok", f"{name} {tag} is in the hub's cache, d = {width}")
    elif repository:
        yield _to_download("CLIP", repository, "--pretrained FILE")
    else:
        file = Path("~/.cache/clip").expanduser() / source.get("url", "").rpartition("/")[2]
        if file.is_file():
            yield Finding("model", "CLIP", "ok", f"{name} {tag} is at {file}, d = {width}")
        else:
            said = f"{name} {tag} is not at {file} yet; the first use downloads it"
            yield Finding("model", "CLIP", "warning", said, "or give --pretrained FILE")


def _model(role: str, name: str, option: str, revision: str | None = None) -> Iterator[Finding]:
    """Look at a model by folder or hub name."""
    from pipeline.models import weights
    from pipeline.models.identity import model_identity

    if Path(name).exists():
        folder: Path | None = Path(name)
    elif weights.is_path(name):
        yield Finding("model", role, "problem", f"{name} does not exist", f"give {option}")
        return
    else:
        folder = weights.cached(name, revision)
    if folder is None:
        yield _to_download(role, name, option)
        return
    wrong = weights.problem(folder)
    if wrong is None:
        yield Finding("model", role, "ok", f"{model_identity(str(folder))} at {folder} is complete")
        return
    fix = f"copy the folder again, or give another with {option}"
    if not Path(name).exists():
        fix = f"delete {folder.parent.parent} and run again: it is downloaded anew"
    yield Finding("model", role, "problem", f"{name} at {folder}: {wrong}", fix)


def _to_download(role: str, name: str, option: str) -> Finding:
    """Return what is to be said about a hub's model that is not on this machine."""
    from pipeline.models import weights

    away = f"{name} is not on this machine"
    elsewhere = f"`hf download {name} --local-dir FOLDER` elsewhere, copy it here and give {option}"
    if variable := weights.offline():
        said = f"{away}, and {variable} forbids to ask the hub"
        return Finding("model", role, "problem", said, f"unset {variable}, or {elsewhere}")
    if why := weights.reachable(name):
        return Finding("model", role, "problem", f"{away}, and {why}", elsewhere)
    said = f"{away}; the first use downloads it"
    return Finding("model", role, "warning", said, f"before it: hf download {name}")


def _loads(role: str, load: Callable[[], Any]) -> Iterator[Finding]:
    """Load a model, which shows that its files belong together."""
    try:
        load()
    except SeizeError as error:
        yield Finding("model", role, "problem", str(error), FIXES["model"])
    else:
        yield Finding("model", role, "ok", "loads")


# --- servers --------------------------------------------------------------------------------------


def _servers(patient: Patient) -> Iterator[Finding]:
    """Ask every server whether it is there and serves its model."""
    if (config := patient.config) is None:
        return
    from pipeline.config import VERIFIED
    from pipeline.models import captioners, llms
    from pipeline.models.prompts import edit as prompts
    from pipeline.stages import released

    asked: list[tuple[str, str, str | list[str], str]] = []
    if config.captioner.model.startswith(captioners.SERVED):
        name = config.captioner.model.removeprefix(captioners.SERVED)
        asked.append(("captioner", name, config.captioner.url, "--captioner-url"))
    llm = config.llm.model
    llm_served = not (llm.startswith(llms.IN_PROCESS) or released.is_imported(llm))
    if llm_served:
        asked.append(("LLM", llm, config.llm.url, "--llm-url"))
    verifier = config.verifier.model
    if config.search.method.endswith(VERIFIED) and not verifier.startswith(llms.IN_PROCESS):
        asked.append(("verifier", verifier, config.verifier.url, "--verifier-url"))
    good = True
    for role, name, urls, option in asked:
        for url in [urls] if isinstance(urls, str) else urls:
            finding = _server(role, name, url, option, config)
            good = good and finding.status == "ok"
            yield finding
    if llm_served and good and prompts.load(config.llm.prompt).answer_schema is not None:
        yield _schema(config)


def _server(role: str, model: str, url: str, option: str, config: "Config") -> Finding:
    from pipeline.models.serving.chat import ChatClient

    try:
        client = ChatClient(url, model, config.runtime)
        client.check()
    except SeizeError as error:
        fix = f"start it, e.g. seize serve-llm {model}, or give {option}"
        return Finding("server", role, "problem", str(error), fix)
    return Finding("server", role, "ok", f"{client.url} serves {model}")


def _schema(config: "Config") -> Finding:
    """Ask for one edit with a JSON schema, as the prompt needs it."""
    from pipeline.stages import trial

    limits = {"timeout": SERVER_TIMEOUT, "give_up_after": SERVER_TIMEOUT, "retries": 0}
    runtime = config.runtime.model_copy(update=limits)
    brief = config.model_copy(update={"runtime": runtime})
    (tried,) = trial.try_prompt(brief, None, "a red apple on a table", "is green")
    if tried["roles"]:
        return Finding("server", "JSON schema", "ok", "the answer follows the prompt's schema")
    said = f"the answer does not follow the prompt's schema: {tried['raw'] or tried['reason']!r}"
    fix = "serve with decoding held to a JSON schema (vLLM does), or choose --prompt seize"
    return Finding("server", "JSON schema", "problem", said[:300], fix)


# --- dataset --------------------------------------------------------------------------------------


def _dataset(patient: Patient) -> Iterator[Finding]:
    """Read the annotations of a split, or of all, and look for every image."""
    from pipeline import datasets

    if patient.dataset is None:
        said = "not checked"
        yield Finding(
            "dataset", "layout", "ok", said, "to check one: --dataset circo --data-root …"
        )
        return
    kind = datasets.find(patient.dataset)
    gallery = patient.config.dataset.gallery if patient.config else "split"
    follow_links = patient.config.runtime.follow_links if patient.config else False
    for split in [patient.split] if patient.split else kind.splits:
        name = f"{patient.dataset} {split}"
        try:
            loaded = datasets.load(patient.dataset, split, patient.data_root, gallery, follow_links)
        except SeizeError as error:
            fix = (
                f"lay it out as the benchmark's authors do, below {patient.data_root}/{kind.folder}"
            )
            yield Finding("dataset", name, "problem", str(error), fix)
            continue
        patient.datasets.append(loaded)
        said = f"{len(loaded.queries):,} queries, {len(loaded.images):,} images"
        yield Finding(
            "dataset", name, "ok", f"the annotations below {loaded.root} are read: {said}"
        )
        yield _images(name, loaded)
        yield from _imported(patient, loaded)


def _imported(patient: Patient, dataset: "Dataset") -> Iterator[Finding]:
    """Look for the texts of others that stand for captioner or LLM."""
    if (config := patient.config) is None:
        return
    from pipeline.run import Run
    from pipeline.stages import released

    run = Run(dataset, config, patient.cache, patient.cache)
    for stage, model in (("caption", config.captioner.model), ("edit", config.llm.model)):
        if released.is_imported(model):
            name = f"{run.name} {stage}s"
            try:
                released.record_file(run, stage, model)
            except SeizeError as error:
                fix = f"seize import FILE --dataset {dataset.name} --split {dataset.split}"
                yield Finding("dataset", name, "problem", str(error), fix)
            else:
                yield Finding("dataset", name, "ok", f"{model} is in the cache")


def _images(name: str, dataset: "Dataset") -> Finding:
    missing = {each: file for each, file in dataset.images.items() if not _has_content(file)}
    if not missing:
        said = f"all {len(dataset.images):,} images are there"
        return Finding("dataset", f"{name} images", "ok", said)
    references = {query.reference for query in dataset.queries} & missing.keys()
    first = ", ".join(str(file) for file in list(missing.values())[:NAMED])
    said = (
        f"{len(missing):,} of {len(dataset.images):,} images are missing or empty, "
        f"{len(references):,} of them reference images: {first}"
        f"{' …' if len(missing) > NAMED else ''}"
    )
    fix = "download them again; a run would go on without them, its figures not comparable"
    return Finding("dataset", f"{name} images", "problem", said, fix)


def _has_content(file: Path) -> bool:
    try:
        return file.stat().st_size > 0
    except OSError:
        return False


# --- cache and disk -------------------------------------------------------------------------------


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that there is."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def _cache(patient: Patient) -> Iterator[Finding]:
    """Write, lock and lock again, in a folder that is gone afterwards."""
    from pipeline.store.files import lock, write_text

    place, name = _existing(patient.cache), str(patient.cache)
    fix = "choose another folder with --cache, or make room and give yourself the right to write"
    if not place.is_dir():
        yield Finding("cache", name, "problem", f"{place} is no folder", fix)
        return
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".seize-doctor-") as folder:
            file = Path(folder) / "file"
            write_text(file, "x" * (1 << 20))
            with lock(file), lock(file, wait=False) as twice:
                locks = not twice
    except (OSError, SeizeError) as error:
        said = f"cannot be written: {getattr(error, 'strerror', None) or error}"
        yield Finding("cache", name, "problem", said, fix)
        return
    if locks:
        yield Finding("cache", name, "ok", "can be written, and locks work there")
    else:
        said = "can be written, but locks do not work there: two processes could damage a file"
        fix = "choose a folder on a local disk with --cache, or run one process at a time"
        yield Finding("cache", name, "warning", said, fix)


def _disk(patient: Patient) -> Iterator[Finding]:
    """Compare the free disk with what the features still to be computed take."""
    place = _existing(patient.cache)
    free = shutil.disk_usage(place).free
    needed = _bytes_to_do(patient)
    said = f"{_size(free)} free at {place}"
    if needed is not None:
        said += f", the features still to be computed take {_size(needed)}"
    fix = "make room, or choose --cache on another disk"
    if free < (needed or 0):
        yield Finding("disk", "free", "problem", said, fix)
    elif free < (needed or 0) + LITTLE_DISK:
        yield Finding("disk", "free", "warning", said, fix)
    else:
        yield Finding("disk", "free", "ok", said)


def _bytes_to_do(patient: Patient) -> int | None:
    """Return the bytes that `seize plan` says are to be written; None where it cannot say."""
    if patient.config is None or not patient.datasets:
        return None
    from pipeline.run import Run
    from pipeline.stages.plan import plan

    total, galleries = 0, set()
    for dataset in patient.datasets:
        for line in plan(Run(dataset, patient.config, patient.cache, patient.cache)):
            shared = (
                line.quantity == "bytes of image features" and dataset.gallery_name in galleries
            )
            if line.quantity.startswith("bytes") and not shared:
                total += line.todo
        galleries.add(dataset.gallery_name)
    return total


def _size(count: float) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.1f} MiB"


CHECKS: dict[str, Callable[[Patient], Iterator[Finding]]] = {
    "installation": _installation,
    "configuration": _configuration,
    "device": _device,
    "model": _models,
    "server": _servers,
    "dataset": _dataset,
    "cache": _cache,
    "disk": _disk,
}
"""Every check, in the order in which they are made."""

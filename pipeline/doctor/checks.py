"""What stands in the way of a run, and what to do about it: the checks of ``seize doctor``.

Each check stands alone, so that whatever is broken, the others are still made. Facts come from the
modules that own them; imports are inside the checks, since any of them may be what is broken.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.doctor import machine
from pipeline.doctor.findings import Finding, Patient, in_words
from pipeline.errors import SeizeError
from pipeline.installation import INSTALL
from pipeline.records import ImageFile, file_of

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.datasets.base import Dataset
    from pipeline.models.kinds import Role

NAMED = 5
"""Missing images that are named."""
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


def examine(patient: Patient, parts: Sequence[str] | None = None) -> Iterator[Finding]:
    """Yield what every check finds, as it is made; of some ``parts`` of ``CHECKS`` alone if given.

    What a check needs of an earlier one (the configuration, the dataset) it does without.
    """
    for part in parts or CHECKS:
        yield from _guarded(part, CHECKS[part](patient))


def installation_only() -> int:
    """Print what is wrong with the installation, where nothing else can be checked; exit code 1."""
    for finding in _guarded("installation", machine.packages(None)):
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


# --- configuration --------------------------------------------------------------------------------


def _configuration(patient: Patient) -> Iterator[Finding]:
    from pipeline import config, datasets
    from pipeline.models.prompts import edit as prompts
    from pipeline.models.prompts import inversion
    from pipeline.models.prompts import verify as questions
    from pipeline.retrieval import indexes, methods
    from pipeline.stages import edit

    patient.config = config.load(patient.preset, patient.overrides)
    method = patient.config.search.method
    edit.check(patient.config)
    methods.selection(method, methods.lacking(patient.config, ""))
    methods.check(patient.config, tuple(datasets.known()))
    indexes.check(patient.config.search.index.kind)
    needs = f" It needs: {patient.config.needs.strip()}" if patient.config.needs else ""
    yield Finding("configuration", patient.preset, "ok", f"can be used.{needs}")
    for name in prompts.names():
        prompts.load(name)
    for name in questions.names():
        questions.load(name)
    for name in inversion.names():
        inversion.load(name)
    chosen = prompts.load(patient.config.llm.prompt).name
    questions.load(patient.config.verifier.prompt)
    count = len(prompts.names()) + len(questions.names())
    yield Finding("configuration", "prompts", "ok", f"{chosen!r} and the other {count - 1} parse")


# --- models ---------------------------------------------------------------------------------------


def _models(patient: Patient) -> Iterator[Finding]:
    """Look at every model that runs in this process: in its folder, or in the hub's cache."""
    if (config := patient.config) is None:
        return
    from pipeline.models import encoders
    from pipeline.models.roles import ROLES

    for role in ROLES:
        if role is not encoders.ROLE:
            yield from _guarded("model", _model_of(patient, config, role))
    for name, one in _encoders(config).items():
        findings = _guarded("model", _model_of(patient, one, encoders.ROLE))
        yield from (_of_encoder(name, finding, config) for finding in findings)


def _encoders(config: "Config") -> dict[str, "Config"]:
    """Return the configuration with each of its encoders in use, by the encoder's name."""
    from pipeline.config import CLIP

    names = (CLIP, *config.encoders)
    return {name: config.with_search(method=f"image@{name}") for name in names}


def _of_encoder(name: str, finding: Finding, config: "Config") -> Finding:
    """Return a finding about an encoder by its name; of one that no method uses, a warning."""
    from pipeline.config import CLIP

    named = finding if name == CLIP else replace(finding, name=f"{finding.name} {name}")
    used = config.named_encoder(name) == config.encoder
    return named if used or finding.status == "ok" else replace(named, status="warning")


def _model_of(patient: Patient, config: "Config", role: "Role[Any, Any]") -> Iterator[Finding]:
    from pipeline.models import encoders

    model = role.chosen(config)
    for place in model.files:
        yield from _model(role.name, place, model.advice, getattr(model.settings, "revision", None))
    if role is encoders.ROLE and not model.files:
        width = encoders.width(config.encoder)  # raises for names that its kind does not know
        name = f"{model.name} {config.encoder.pretrained or ''}".rstrip()
        if (source := model.downloads) is None:
            yield Finding("model", role.name, "ok", f"{name} is known, d = {width}")
        elif "://" in source:
            said = f"{name} is not on this machine yet; the first use downloads {source}"
            yield Finding("model", role.name, "warning", said, "or give --pretrained FILE")
        else:
            yield _to_download(role.name, source, "--pretrained FILE")
    if patient.load and not (model.kind.served or model.kind.given):
        section = getattr(config, role.section)
        yield from _loads(role.name, lambda: role.load(section, config.runtime))


def _model(role: str, name: str, option: str, revision: str | None = None) -> Iterator[Finding]:
    """Look at a model by folder or hub name."""
    from pipeline.models import weights
    from pipeline.models.identity import model_identity

    if Path(name).is_file():
        size = in_words(Path(name).stat().st_size)
        yield Finding("model", role, "ok", f"{name} is there ({size})")
        return
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
    from pipeline.models import encoders, llms, verifiers
    from pipeline.models.prompts import edit as prompts
    from pipeline.models.roles import ROLES

    verified = config.search.method.endswith(VERIFIED)
    good = True
    for role in ROLES:
        if not (role is encoders.ROLE or (role is verifiers.ROLE and not verified)):
            for finding in _servers_of(config, role):
                good = good and finding.status == "ok"
                yield finding
    for name, one in _encoders(config).items():
        for finding in _servers_of(one, encoders.ROLE):
            yield _of_encoder(name, finding, config)
    llm = llms.ROLE.chosen(config).kind
    if llm.served and good and prompts.load(config.llm.prompt).answer_schema is not None:
        yield _schema(config)


def _servers_of(config: "Config", role: "Role[Any, Any]") -> Iterator[Finding]:
    """Ask the servers of one model, where it is served."""
    model = role.chosen(config)
    urls = getattr(model.settings, "url", []) if model.kind.served else []
    for url in [urls] if isinstance(urls, str) else urls:
        yield _server(role.name, model.name, url, f"{role.option}-url", config)


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
    if tried["edited_caption"] is not None:
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
        for note in loaded.notes:
            yield Finding("dataset", name, "ok", note)
        yield _images(name, loaded)
        yield from _given(patient, loaded)


def _given(patient: Patient, dataset: "Dataset") -> Iterator[Finding]:
    """Look for the texts of others that stand for captioner or LLM."""
    if (config := patient.config) is None:
        return
    from pipeline.models import captioners, llms
    from pipeline.run import Run

    run = Run(dataset, config, patient.cache, patient.cache)
    for what, model in (
        ("captions", captioners.ROLE.chosen(config)),
        ("edits", llms.ROLE.chosen(config)),
    ):
        if (given := model.kind.given) is None:
            continue
        name = f"{run.name} {what}"
        try:
            given.file(run, model.name)
        except SeizeError as error:
            fix = f"seize import FILE --dataset {dataset.name} --split {dataset.split}"
            yield Finding("dataset", name, "problem", str(error), fix)
        else:
            said = f"{model.kind_name}:{model.name} is in the cache"
            yield Finding("dataset", name, "ok", said)


def _images(name: str, dataset: "Dataset") -> Finding:
    missing = {each: file for each, file in dataset.images.items() if not _has_content(file)}
    if not missing:
        said = f"all {len(dataset.images):,} images are there"
        return Finding("dataset", f"{name} images", "ok", said)
    references = {r for query in dataset.queries for r in query.references} & missing.keys()
    first = ", ".join(str(file) for file in list(missing.values())[:NAMED])
    said = (
        f"{len(missing):,} of {len(dataset.images):,} images are missing or empty, "
        f"{len(references):,} of them reference images, which touches "
        f"{dataset.touched_by(missing):,} of {len(dataset.queries):,} queries: {first}"
        f"{' …' if len(missing) > NAMED else ''}"
    )
    fix = "download them again; a run would go on without them, its figures not comparable"
    return Finding("dataset", f"{name} images", "problem", said, fix)


def _has_content(file: ImageFile) -> bool:
    try:
        return file_of(file).stat().st_size > 0
    except OSError:
        return False


CHECKS: dict[str, Callable[[Patient], Iterator[Finding]]] = {
    "installation": machine.packages,
    "configuration": _configuration,
    "device": machine.device,
    "model": _models,
    "server": _servers,
    "dataset": _dataset,
    "cache": machine.cache,
    "disk": machine.disk,
}
"""Every check, in the order in which they are made."""

"""Hostile files for every reader: what comes out is a result or the project's own error.

``python -m tests.campaigns.fuzz --inputs 100000`` changes good files at random (``mutate``), has
the product read them, and counts what it made of them. Any other exception, an input that takes
longer than ten seconds or more than 4 GiB, and a process that dies are defects: the input is kept.
"""

import collections
import contextlib
import hashlib
import json
import multiprocessing
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import safetensors.numpy
import torch
import yaml
from PIL import Image

from pipeline import config, datasets
from pipeline.datasets.reading import read_json
from pipeline.demo import layouts
from pipeline.demo.build import Sizes, build
from pipeline.errors import SeizeError
from pipeline.images.files import open_image, read_image
from pipeline.models.encoders._open_clip import width
from pipeline.models.llms import Answer
from pipeline.models.pixels import TargetPad
from pipeline.models.prompts import edit as prompts
from pipeline.models.prompts import verify as questions
from pipeline.own import folder, settings
from pipeline.pages.bodies import parse_json
from pipeline.pages.questions import Texts
from pipeline.pages.report import charts
from pipeline.pages.report.queries import side_of
from pipeline.retrieval import methods
from pipeline.retrieval.files import Features, read_excluded
from pipeline.run import Run
from pipeline.stages import caption, edit, editor, embed, export, released, search, verify
from pipeline.stages.evaluate import evaluate_files
from pipeline.stages.everything import run_stages
from pipeline.store.features import FeatureFile, write_features
from pipeline.store.jsonl import RecordFile, read_header
from pipeline.store.segments import folder_of
from pipeline.store.shards import Stored, merge
from pipeline.study import compare, published, tune
from tests.campaigns import mutate

SECONDS = 10
"""What one input may take."""
MEMORY = 4 << 30
"""Bytes of addresses that one input may take."""
PLAIN = 0.35
"""How many inputs are damaged as bytes; the others are changed as what they are."""
KEPT = Path(__file__).parent / "crashers"
"""Inputs that were defects once: the tests read them again."""
SIZES = Sizes(
    circo_queries={"val": 6, "test": 2},
    circo_gallery=60,
    cirr_queries=4,
    cirr_groups=3,
    fashioniq_queries=2,
    fashioniq_gallery=20,
)

Mutation = Callable[[bytes, random.Random], bytes]


class Hang(Exception):
    """An input took longer than it may."""


@dataclass(frozen=True)
class Reader:
    """One way into the product: a file, good contents of it, and what reads it."""

    name: str
    file: Path
    seeds: list[bytes]
    mutation: Mutation
    read: Callable[[Path], object]

    def take(self, content: bytes) -> None:
        """Have ``content`` read from the file."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_bytes(content)
        self.read(self.file)

    def mutant(self, chance: random.Random) -> bytes:
        """Return a hostile version of one of the seeds."""
        seed = chance.choice(self.seeds)
        if chance.random() < PLAIN:
            return mutate.damaged(seed, chance)
        return self.mutation(seed, chance)

    def restore(self) -> None:
        """Leave a good file for the other readers."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_bytes(self.seeds[0])


@dataclass
class Outcome:
    """What became of the inputs of one reader."""

    reader: str
    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    defects: dict[str, int] = field(default_factory=dict)
    """By where and what."""


def readers(root: Path) -> list[Reader]:
    """Return all readers, on a small rendered world below ``root`` and on a run of every stage."""
    data = build(root / "data", sizes=SIZES)
    fields = {"runtime.workers": 0, "runtime.device": "cpu", "verifier.early_stop": False}
    settings = config.load("demo", fields)

    def run_on(name: str) -> Run:
        return Run(datasets.load(name, "val", data), settings, root / "cache", root / "submissions")

    run, cirr = run_on("circo"), run_on("cirr")
    run_stages(run)
    verify.verify(run)
    tune.tune(run, {"positive": [0.1, 0.2], "negative": [0.5, 1.0]}, root / "tuned")
    return [
        *_datasets(data),
        *_layouts(root / "layouts"),
        *_submissions(root, run, cirr),
        *_released(root, run),
        *_caches(root, run),
        *_features(root, run),
        *_texts(root, run.dataset),
        *_tables(root, run),
        *_images(root),
    ]


def _seed(file: Path) -> list[bytes]:
    """Return a file's content, and what it was before there were checksums.

    Those end the reading of nearly everything that is changed; without them it goes on.
    """
    content = file.read_bytes()
    if file.suffix == ".jsonl":
        return [content, re.sub(rb', "checksum": "[0-9a-f]{16}"}$', b"}", content, flags=re.M)]
    if file.suffix == ".safetensors":
        tensors = safetensors.numpy.load(content)
        if tensors.pop("checksums", None) is not None:
            with safetensors.safe_open(file, framework="numpy") as handle:
                return [content, safetensors.numpy.save(tensors, handle.metadata())]
    return [content]


def _datasets(data: Path) -> Iterator[Reader]:
    files = {
        "circo": ("CIRCO", ["annotations/val.json", datasets.circo.LISTING]),
        "cirr": (
            "CIRR",
            ["cirr/captions/cap.rc2.val.json", "cirr/image_splits/split.rc2.val.json"],
        ),
        "fashioniq": (
            "FashionIQ",
            ["captions/cap.dress.val.json", "image_splits/split.dress.val.json"],
        ),
    }
    for name, (inner, listed) in files.items():
        for path in listed:
            file = data / inner / path
            yield Reader(
                f"dataset {name} {file.parent.name}",
                file,
                _seed(file),
                mutate.of_json,
                lambda _, name=name: _used(datasets.load(name, "val", data)),  # type: ignore[misc]
            )


LAYOUTS = {
    "genecis": ["focus_attribute.json", "change_object.json"],
    "pinpoint": ["pinpoint_licensed.parquet", "index_signatures.txt"],
    "icir": ["query_files.csv", "database_files.csv"],
    "fine-fashioniq": ["captions/fiq.fine.dress.val.jsonl"],
    "fine-cirr": ["fine-cirr/finemt_captions/cirr.fine.val.json"],
    "facap": ["cir_triplets/top_train_triplets.json"],
    "enhfashioniq": ["enhfashioniq_triplets/dress_val_triplets.json"],
    "shoes": ["relative_captions_shoes.json", "eval_im_names.txt"],
    "fashion200k": ["labels/dress_test_detect_all.txt", "test_queries.txt"],
}
"""Files of the benchmarks that the demo's world is written as."""
MUTATIONS = {".json": mutate.of_json, ".jsonl": mutate.of_lines, ".parquet": mutate.damaged}


def _layouts(root: Path) -> Iterator[Reader]:
    words = mutate.of_text(["", "a,b,c", "a\tb\tc", ",,", "../x.jpg", "\0", "x y", "\u2028"])
    for name, listed in LAYOUTS.items():
        data, kind = layouts.write(name, root / name, queries=2), datasets.find(name)
        for path in listed:
            file = data / kind.folder / path
            yield Reader(
                f"dataset {name} {file.name}",
                file,
                [file.read_bytes()],
                MUTATIONS.get(file.suffix, words),
                lambda _, name=name, kind=kind, data=data: _used(  # type: ignore[misc]
                    datasets.load(name, kind.splits[0], data)
                ),
            )


def _used(dataset: datasets.Dataset) -> None:
    """Do with a dataset what the stages do: its texts are written, its images' paths asked for."""
    json.dumps([asdict(query) for query in dataset.queries], ensure_ascii=False).encode()
    for file in dataset.images.values():
        with contextlib.suppress(SeizeError):
            read_image(file)
    assert dataset.metrics


def _submissions(root: Path, *runs: Run) -> Iterator[Reader]:
    for run in runs:
        dataset = run.dataset
        lists: dict[str, list[str]] = {}
        for query in run.queries:
            ranked = dict.fromkeys([*query.relevant, *query.group, *dataset.images])
            lists[query.id] = [image for image in ranked if image != query.reference][:50]
        for kind in dataset.kinds:
            seed = json.dumps(dataset.submission(kind, lists)).encode()
            file = root / f"{dataset.name}-{kind}.json"
            read = [
                ("check", lambda file, dataset=dataset: dataset.check(file)),
                ("evaluate", lambda file, dataset=dataset: evaluate_files(dataset, [file])),
            ]
            for name, reading in read:
                title = f"submission {dataset.name} {kind}, {name}"
                yield Reader(title, file, [seed], mutate.of_json, reading)
    sidecar = root / "row.config.json"
    run = runs[0]
    ranked = run.dataset.predictions(search.read(run))["recall"]
    row = root / "row.json"
    row.write_text(json.dumps(run.dataset.submission("recall", ranked)))
    yield Reader(
        "sidecar of a submission",
        sidecar,
        [json.dumps({"search": search.header(run)}).encode()],
        mutate.of_json,
        lambda _: compare.check_protocols(
            [compare.row_of_files(run.dataset, name, [row]) for name in "ab"], mixed=False
        ),
    )


def _released(root: Path, run: Run) -> Iterator[Reader]:
    (exported,) = export.export(run, root / "exported")
    entries = json.loads(exported.read_text())
    official = [
        {k: v for k, v in entry.items() if not k.startswith("multi_")}
        | {"blip2_caption": "a", "gpt-3.5-turbo": "b"}
        for entry in entries
    ]
    seeds = [json.dumps(content).encode() for content in (entries, official)]
    cache = root / "imports"

    def read(file: Path) -> None:
        shutil.rmtree(cache, ignore_errors=True)
        for found in released.import_files(run.dataset, [file], cache):
            RecordFile(Path(found.writes), {}).read()

    yield Reader("released import", root / "released.json", seeds, mutate.of_json, read)

    imported = released.import_files(run.dataset, [exported], run.cache)
    names = {f"{found.stage}": f"imported:{found.name}" for found in imported}
    own = run.config.model_copy(deep=True)
    own.captioner.model, own.llm.model = names["caption"], names["edit"]
    run = Run(run.dataset, own, run.cache, run.submissions)
    for found in imported:
        file = Path(found.writes)

        def reread(_: Path) -> None:
            caption.read(run)
            edit.read(run)

        title = f"imported {found.stage} file"
        yield Reader(title, file, _seed(file), mutate.of_lines, reread)


def _caches(root: Path, run: Run) -> Iterator[Reader]:
    ranking = search.ranking_file(run).file
    compared = [search.search(run.with_method("mean-ensemble")), ranking]
    photos = root / "photos"
    photos.mkdir()
    for number, file in enumerate(list(run.dataset.images.values())[:4]):
        shutil.copy(file, photos / f"{number}.jpg")
    gallery = folder.open_folder(photos, run.config, run.cache)
    folder.index(gallery)
    read: dict[str, tuple[Path, Callable[[Path], object]]] = {
        "captions": (caption.record_file(run).file, lambda _: caption.read(run)),
        "edits": (edit.record_file(run).file, lambda _: (edit.read(run), edit.edited(run))),
        "ranking": (
            ranking,
            lambda _: run.dataset.evaluate(run.dataset.predictions(search.read(run))),
        ),
        "verdicts": (
            verify.record_file(run).file,
            lambda _: verify.known_probabilities(run),
        ),
        "verified ranking": (
            search.ranking_file(run.with_method("seize+verify")).file,
            lambda _: (search.read(run.with_method("seize+verify")),
                       verify.cost_of(run.with_method("seize+verify"))),
        ),
        "listing of a folder": (gallery.listing.file, lambda _: folder.index(gallery)),
    }  # fmt: skip
    del compared
    settings.remember(photos, "demo", run.cache, {"clip.model": "local-dir:data/models/clip"})
    kept = run.cache / settings.cache_name(photos.resolve()) / settings.REMEMBERED
    unsealed = {k: v for k, v in json.loads(kept.read_text()).items() if k != "checksum"}
    yield Reader(
        "settings of a folder", kept, [kept.read_bytes(), json.dumps(unsealed).encode()],
        mutate.of_json, lambda _: settings.load(photos, None, run.cache, {}),
    )  # fmt: skip
    for name, (file, reading) in read.items():
        yield Reader(f"cache: {name}", file, _seed(file), mutate.of_lines, reading)
    yield Reader(
        "ranking file for compare and report",
        root / "other.jsonl",
        _seed(ranking),
        mutate.of_lines,
        lambda file: (
            compare.row_of_files(run.dataset, "x", [file]),
            side_of(run, str(file)),
            read_header(file),
        ),
    )


def _features(root: Path, run: Run) -> Iterator[Reader]:
    image_file = embed.image_file(run)
    text_file = embed.text_file(run)

    def whole(file: Path) -> None:
        features = FeatureFile(file)
        features.all()
        features.take(np.arange(len(features.names)))

    small = root / "small.safetensors"
    write_features(small, ["a", "b", "c"], np.eye(3, 8, dtype=np.float32), {"copies": {"d": "a"}})
    yield Reader("feature file", small, _seed(small), mutate.of_safetensors, whole)
    for name, file in {"image": image_file, "text": text_file}.items():
        yield Reader(
            f"{name} features at the search",
            file,
            _seed(file),
            mutate.of_safetensors,
            lambda _: search.search(run),
        )
    shard = folder_of(root / "merged.safetensors") / "0000-000000.safetensors"
    facts = {"digests": ["x", "y", "z"], "copies": {"d": "a"}}
    shard.parent.mkdir()
    write_features(shard, ["a", "b", "c"], np.eye(3, 8, dtype=np.float32), facts)

    def merging(file: Path) -> None:
        merged = root / "merged.safetensors"
        merged.unlink(missing_ok=True)
        Stored(merged)
        merge(merged, ["a", "b", "c", "d"], {})

    yield Reader("shard of features", shard, _seed(shard), mutate.of_safetensors, merging)
    yield Reader(
        "rank: safetensors", root / "m.safetensors", _seed(small), mutate.of_safetensors,
        lambda file: Features(file).all(),
    )  # fmt: skip
    matrix = root / "matrix.npy"
    np.save(matrix, np.eye(4, 6, dtype=np.float16))
    yield Reader(
        "rank: npy", matrix, _seed(matrix), mutate.damaged, lambda file: Features(file).all()
    )
    rows = root / "rows.npy"
    np.save(rows, np.arange(6).reshape(3, 2))
    yield Reader(
        "rank: excluded npy", rows, _seed(rows), mutate.damaged,
        lambda file: read_excluded(file, 3, 9),
    )  # fmt: skip
    yield Reader(
        "rank: excluded JSON", root / "rows.json", [b"[1, [2, 3], null]"], mutate.of_json,
        lambda file: read_excluded(file, 3, 9),
    )  # fmt: skip


def _texts(root: Path, dataset: datasets.Dataset) -> Iterator[Reader]:
    def edit_prompt(file: Path) -> None:
        prompt = prompts.load(str(file))
        prompt.messages("a dog", "is a cat")
        prompt.clean("Edited Description: a cat")

    def verify_prompt(file: Path) -> None:
        questions.load(str(file)).messages([], "a dog", "is a cat")

    def answer(file: Path) -> None:
        text = file.read_text(encoding="utf-8", errors="replace")
        pair = editor.Pair("a dog", "is a cat")
        for name in ("seize", "roles"):
            prompt = prompts.load(name)
            editor.judge(prompt, pair, Answer(0, text))
            prompt.fields(text)

    def request(file: Path) -> None:
        parse_json(Texts, file.read_bytes())

    def configured(file: Path) -> None:
        """Load a configuration and do what comes before any model is loaded."""
        settings = config.load(str(file)).with_search(top_k=5)
        settings.runtime.device = "cpu"
        run = Run(dataset, settings, root / "cache", root / "submissions")
        for one in (caption, edit, search, verify):
            one.record_file(run) if one is not search else search.ranking_file(run)
        embed.image_file(run)
        width(settings.clip)
        assert run.protocol
        json.dumps(settings.model_dump()).encode()

    snippets = (*mutate.YAML, *mutate.TEMPLATES)
    shipped = [file.read_bytes() for file in sorted(prompts.PROMPTS.glob("*.yaml"))]
    yield Reader("prompt", root / "p.yaml", shipped, mutate.of_text(snippets), edit_prompt)
    asked = [file.read_bytes() for file in sorted(questions.FOLDER.glob("*.yaml"))]
    yield Reader("verify prompt", root / "v.yaml", asked, mutate.of_text(snippets), verify_prompt)
    presets = [_with_weights(file) for file in sorted(config.PRESETS.glob("*.yaml"))]
    whole = config.load("demo").model_dump_json().encode()
    for name, seeds, mutation in (
        ("configuration", presets, mutate.of_text(mutate.YAML)),
        ("configuration, every field", [whole], mutate.of_json),
    ):
        yield Reader(name, root / "c.yaml", seeds, mutation, configured)
    roles = {"target": "a", "desired": ["b"], "preserve": [], "forbidden": ["c"]}
    answers = [json.dumps(roles).encode()]
    yield Reader("answer of an LLM", root / "answer.txt", answers, mutate.of_json, answer)
    asked_for = {"reference": "0" * 64, "relative_caption": "x", "captions": ["a"]}
    asked_for |= {"edited_captions": ["b"], "alpha_pos": 0.1, "method": "seize", "top_k": 5}
    body = [json.dumps(asked_for).encode()]
    yield Reader("request to the page", root / "request.json", body, mutate.of_json, request)


def _with_weights(preset: Path) -> bytes:
    """Return a preset; one whose method needs weights of the user's has the demo's instead."""
    settings = config.load(preset.stem)
    unmade = methods.lacking(settings, "circo")
    if not methods.clues_of(settings.search.method).keys() & unmade.keys():
        return preset.read_bytes()
    content = yaml.safe_load(preset.read_bytes())
    weights = {settings.search.method: {"phi": "data/models/phi/lincir.safetensors"}}
    content["search"] = content.get("search", {}) | weights
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode()


def _tables(root: Path, run: Run) -> Iterator[Reader]:
    (table,) = (root / "tuned").glob("*.csv")
    yield Reader(
        "table of tune", table, _seed(table), mutate.of_text(mutate.CSV),
        lambda file: (charts.newest_tuning(run, file.parent), charts.heat_map(run, file)),
    )  # fmt: skip
    mine = [b'{"mAP@5": 12.5, "mAP@10": 13, "mAP@25": null}']
    yield Reader(
        "own row of a published table", root / "mine.json", mine, mutate.of_json,
        lambda file: published._own("mine", file, ["mAP@5", "mAP@10", "mAP@25"]),
    )  # fmt: skip
    yield Reader("any JSON", root / "any.json", mine, mutate.of_json, read_json)


def _images(root: Path) -> Iterator[Reader]:
    chance = np.random.default_rng(0)
    pixels = chance.integers(0, 255, (9, 7, 3), dtype=np.uint8)
    pad = TargetPad(1.25)
    exif = Image.Exif()
    exif[0x0112] = 6
    for ending in ("png", "jpg", "gif", "webp", "bmp", "tiff", "ppm", "jp2", "avif"):
        file = root / f"seed.{ending}"
        image = Image.fromarray(pixels)
        image.save(file, **({"exif": exif} if ending in ("jpg", "png", "webp", "tiff") else {}))
        yield Reader(
            f"image {ending}", file, _seed(file), mutate.damaged,
            lambda file: (pad(open_image(file)), open_image(file, at_least=2)),
        )  # fmt: skip


# --- running them ---------------------------------------------------------------------------------


def attack(reader: Reader, inputs: int, seed: int, keep: Path | None) -> Outcome:
    """Have one reader take ``inputs`` hostile files; the same seed makes the same files."""
    chance = random.Random(f"{seed} {reader.name}")
    outcome, start = Outcome(reader.name), time.monotonic()
    counts: collections.Counter[str] = collections.Counter()
    for _ in range(inputs):
        content = reader.mutant(chance)
        outcome.inputs += 1
        defect = judged(reader, content)
        if defect is None:
            outcome.accepted += 1
        elif defect == "":
            outcome.refused += 1
        else:
            counts[defect] += 1
            if keep is not None and counts[defect] == 1:
                save(keep, reader, content)
    reader.restore()
    outcome.seconds, outcome.defects = round(time.monotonic() - start, 1), dict(counts)
    return outcome


def judged(reader: Reader, content: bytes) -> str | None:
    """Have a reader take a file; return None where it did, "" where it refused, else the defect."""
    try:
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        reader.take(content)
    except SeizeError:
        return ""
    except Exception as error:
        return described(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return None


def described(error: Exception) -> str:
    """Return where in the product an exception came from, and which it is."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/pipeline/" in frame.filename] or frames
    place = f"{Path(own[-1].filename).name}:{own[-1].lineno}"
    return f"{place} {type(error).__name__}: {str(error)[:120]!r}"


def save(keep: Path, reader: Reader, content: bytes) -> None:
    """Keep an input by the reader's name and its own hash."""
    keep.mkdir(parents=True, exist_ok=True)
    name = "".join(c if c.isalnum() else "-" for c in reader.name)
    (keep / f"{name}.{hashlib.sha256(content).hexdigest()[:8]}").write_bytes(content)


def kept(every: list[Reader], folder: Path = KEPT) -> Iterator[tuple[Reader, Path]]:
    """Yield the inputs that were kept, each with its reader."""
    named = {"".join(c if c.isalnum() else "-" for c in one.name): one for one in every}
    for file in sorted(folder.glob("*")):
        yield named[file.name.rpartition(".")[0]], file


def _hang(*_: Any) -> None:
    raise Hang(f"took longer than {SECONDS} s")


def guarded() -> None:
    """Limit what one input may take, in this process."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, _hang)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))


def _in_process(pipe: Any, *arguments: Any) -> None:
    guarded()
    pipe.send(attack(*arguments))


def apart(reader: Reader, inputs: int, seed: int, keep: Path | None) -> Outcome:
    """Attack in a process of its own, whose death is a defect too."""
    context = multiprocessing.get_context("fork")
    ours, its = context.Pipe()
    process = context.Process(target=_in_process, args=(its, reader, inputs, seed, keep))
    start = time.monotonic()
    process.start()
    its.close()
    try:
        outcome: Outcome = ours.recv()
    except EOFError:
        process.join()
        outcome = Outcome(reader.name, inputs, seconds=round(time.monotonic() - start, 1))
        outcome.defects[f"the process died with exit code {process.exitcode}"] = 1
        if keep is not None:
            last = reader.file  # which the reader may have deleted
            save(keep, reader, last.read_bytes() if last.exists() else b"")
        reader.restore()
    process.join()
    return outcome


@click.command()
@click.option("--inputs", type=click.IntRange(1), default=100_000, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--only", default="", help="readers whose name contains this")
@click.option("--keep", type=click.Path(path_type=Path), help="folder for inputs that are defects")
@click.option("--json", "as_json", is_flag=True)
def main(inputs: int, seed: int, only: str, keep: Path | None, as_json: bool) -> None:
    """Attack every reader with its share of the inputs; exit code 1 where there is a defect.

    Example: python -m tests.campaigns.fuzz --inputs 100000 --keep /tmp/defects
    """
    with tempfile.TemporaryDirectory() as root:
        chosen = [reader for reader in readers(Path(root)) if only in reader.name]
        outcomes = []
        for number, reader in enumerate(chosen):
            share = inputs * (number + 1) // len(chosen) - inputs * number // len(chosen)
            outcome = apart(reader, share, seed, keep)
            outcomes.append(outcome)
            if not as_json:
                click.echo(
                    f"{outcome.reader:<40} {outcome.inputs:>7,} inputs {outcome.accepted:>7,} taken"
                    f" {outcome.refused:>7,} refused {outcome.seconds:>7.1f} s"
                )
                for defect, times in outcome.defects.items():
                    click.echo(f"    DEFECT, {times} times: {defect}")
    total = {
        "readers": len(outcomes),
        "inputs": sum(outcome.inputs for outcome in outcomes),
        "accepted": sum(outcome.accepted for outcome in outcomes),
        "refused": sum(outcome.refused for outcome in outcomes),
        "defects": sum(len(outcome.defects) for outcome in outcomes),
        "seconds": round(sum(outcome.seconds for outcome in outcomes), 1),
    }
    if as_json:
        click.echo(json.dumps(total | {"by_reader": [asdict(outcome) for outcome in outcomes]}))
    else:
        click.echo(", ".join(f"{name} {value:,}" for name, value in total.items()))
    sys.exit(1 if total["defects"] else 0)


if __name__ == "__main__":
    main()

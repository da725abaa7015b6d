"""`seize doctor` finds what is wrong, says what to do, and works where much is broken."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import installation
from pipeline.doctor.checks import examine
from pipeline.doctor.findings import Finding, Patient, usable
from pipeline.installation import PROJECT
from pipeline.models import weights
from tests.integration.test_errors import broken
from tests.stub import Running, Stub

MODELS = PROJECT / "data" / "models"


def doctor(*arguments: str, path: Path | None = None) -> tuple[int, str]:
    folders = [str(path), str(PROJECT)] if path else [str(PROJECT)]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "doctor", *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"PYTHONPATH": ":".join(folders), "HF_HUB_OFFLINE": "1"},
    )
    assert done.stderr == "" or "Traceback" not in done.stderr
    return done.returncode, done.stdout


def found(
    *parts: str, preset: str = "demo", data_root: Path = Path("none"), **given: Any
) -> list[Finding]:
    """Make some of the checks; ``given`` are fields of the patient, and dotted ones overrides."""
    fields = {name: given.pop(name) for name in list(given) if name in ("dataset", "split")}
    cache = given.pop("cache", Path("cache"))
    overrides = {name.replace("__", "."): value for name, value in given.items()}
    patient = Patient(
        preset, overrides, fields.get("dataset"), fields.get("split"), data_root, cache
    )
    findings = list(examine(patient, ["configuration", *parts]))[2:]
    assert all(finding.fix for finding in findings if finding.status != "ok")
    return findings


def test_a_healthy_demo_is_usable_and_its_models_load(small_world: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    options = ("--config", "demo", "--dataset", "circo", "--data-root", str(small_world))
    code, out = doctor(*options, "--cache", str(cache), "--load", "--json")
    content = json.loads(out)
    assert content["findings"]
    assert {f["status"] for f in content["findings"] if f["part"] != "device"} == {"ok"}
    assert (code, content["usable"]) == (0, True)
    said = {f"{f['part']} {f['name']}": f["found"] for f in content["findings"]}
    assert "12 queries, 150 images" in said["dataset circo val"]
    assert said["dataset circo test images"] == "all 150 images are there"
    assert sum(f["found"] == "loads" for f in content["findings"]) == 5  # two encoders
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


def test_every_named_encoder_is_looked_at_and_one_in_use_is_a_problem() -> None:
    """Where it is but named, it may be for other runs."""
    given = {"encoders__far__model": "served:x", "encoders__far__url": "http://127.0.0.1:9/v1"}
    (unused,) = (f for f in found("server", **given) if f.name == "encoder far")
    (used,) = (
        f for f in found("server", search__method="image@far", **given) if f.name == "encoder far"
    )
    assert (unused.status, used.status) == ("warning", "problem")
    lost = {"encoders__lost__model": "local-dir:nowhere/at/all"}
    (finding,) = (f for f in found("model", **lost) if f.name == "encoder lost")
    assert (finding.status, "does not exist" in finding.found) == ("warning", True)


def test_a_broken_package_is_a_finding_and_the_rest_is_still_checked(
    small_world: Path, tmp_path: Path
) -> None:
    options = ("--config", "demo", "--dataset", "cirr", "--split", "val")
    path = broken(tmp_path, "open_clip")
    code, out = doctor(*options, "--data-root", str(small_world), path=path)
    assert code == 1
    lines = out.splitlines()
    (place,) = [i for i, line in enumerate(lines) if " open_clip_torch: " in line]
    assert lines[place].startswith("problem  installation  open_clip_torch: 3.")
    assert "libfoo.so.3: cannot open shared object file" in lines[place]
    assert "-> pip install --force-reinstall 'open_clip_torch>=" in lines[place + 1]
    assert any(line.startswith("ok       dataset       cirr val:") for line in lines)
    assert any(line.startswith("ok       model         captioner:") for line in lines)
    assert lines[-1].startswith("Problems: ")


def test_without_the_command_lines_own_packages_the_installation_is_still_checked(
    tmp_path: Path,
) -> None:
    code, out = doctor(path=broken(tmp_path, "pydantic"))
    assert code == 1
    assert "problem  installation  pydantic: 2." in out
    assert "Nothing else can be checked" in out


def test_an_import_that_ends_the_process_is_named_and_others_are_still_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("crashing", "import os; os.abort()"), ("failing", "1 / 0"), ("fine", "")):
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    errors = installation.import_errors(["fine", "crashing", "failing", "json"])
    assert set(errors) == {"crashing", "failing"}
    assert "ends the process" in errors["crashing"]
    assert errors["failing"] == "ZeroDivisionError: division by zero"


def test_missing_and_empty_images_are_counted_and_named(small_world: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(small_world / "CIRCO", root / "CIRCO")
    images = sorted((root / "CIRCO").rglob("*.jpg"))
    for image in images[:7]:
        image.unlink()
    images[7].write_bytes(b"")
    _, finding = found("dataset", dataset="circo", split="val", data_root=root)
    assert finding.status == "problem"
    assert finding.found.startswith("8 of 150 images are missing or empty")
    assert str(images[0]) in finding.found
    assert finding.fix


def test_a_dataset_that_is_not_there_says_what_is_looked_for(tmp_path: Path) -> None:
    findings = found("dataset", dataset="cirr", data_root=tmp_path)
    assert [finding.status for finding in findings] == ["problem"] * 2
    assert f"below {tmp_path}/" in findings[0].fix
    (finding,) = found("dataset", dataset="ciro")
    assert "Did you mean 'circo'" in finding.found


def test_imported_texts_are_looked_for(small_world: Path, tmp_path: Path) -> None:
    given = {"dataset": "circo", "split": "val", "data_root": small_world, "cache": tmp_path}
    *_, finding = found("dataset", captioner__model="imported:multi_caption_opt", **given)
    assert finding.status == "problem"
    assert "multi_caption_opt" in finding.found
    assert finding.fix == "seize import FILE --dataset circo --split val"


@pytest.fixture
def model(tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a model of the demo, to be damaged."""
    return lambda name: Path(shutil.copytree(MODELS / name, tmp_path / name))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "neither config.json"),
    "bad config": (lambda folder: (folder / "config.json").write_text("{"), "cannot be read"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
    "cut weights": (lambda folder: cut(folder / "model.safetensors"), "damaged or incomplete"),
    "empty weights": (
        lambda folder: (folder / "model.safetensors").write_bytes(b""),
        "model.safetensors is empty",
    ),
    "missing part": (
        lambda folder: (folder / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}})
        ),
        "1 of 2 weight files are missing, the first: model-2.safetensors",
    ),
    "missing tensor": (
        lambda folder: (folder / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"a.weight": "model.safetensors"}})
        ),
        "model.safetensors lacks a.weight",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_model_folder_is_named_with_what_is_wrong(
    model: Callable[[str], Path], damage: tuple[Callable[[Path], Any], str]
) -> None:
    folder = model("captioner")
    assert weights.problem(folder) is None
    damage[0](folder)
    findings = found("model", captioner__model=str(folder))
    wrong = [finding for finding in findings if finding.status == "problem"]
    assert [finding.name for finding in wrong] == ["captioner"]
    assert str(folder) in wrong[0].found
    assert damage[1] in wrong[0].found
    assert "--captioner FOLDER" in wrong[0].fix


def test_models_that_are_not_here_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    by_name = {f.name: f for f in found("model", captioner__model="/nowhere/blip2")}
    assert by_name["captioner"].found == "/nowhere/blip2 does not exist"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    captioner, clip = found("model", preset="paper-b32")
    assert "HF_HUB_OFFLINE forbids to ask the hub" in captioner.found
    assert "hf download Salesforce/" in captioner.fix
    assert clip.status == "problem"
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    captioner, _ = found("model", preset="paper-b32")
    assert "http://127.0.0.1:9 cannot be reached" in captioner.found
    (wrong,) = found("model", preset="paper-b32", clip__model="ViT-B-33")[1:]
    assert "Did you mean 'ViT-B-32'" in wrong.found


@contextlib.contextmanager
def serving(**options: Any) -> Iterator[str]:
    server = Running(Stub(**options))
    try:
        yield server.url
    finally:
        server.stop()


def test_servers_are_asked_for_their_model_and_for_json_where_the_prompt_needs_it() -> None:
    with serving() as url:
        (finding,) = found("server", llm__model="echo", llm__url=url)
        assert finding.status == "ok"
        (finding,) = found("server", llm__model="qwen", llm__url=url)
        assert finding.status == "problem"
        assert "It serves: echo" in finding.found
        urls = [url, "http://127.0.0.1:9/v1"]
        good, dead = found("server", llm__model="echo", llm__url=urls)
        assert (good.status, dead.status) == ("ok", "problem")
        assert "http://127.0.0.1:9/v1" in dead.found
        assert "seize serve-llm echo" in dead.fix
        _, schema = found("server", llm__model="echo", llm__url=url, llm__prompt="roles")
        assert schema.status == "problem"
        assert "JSON schema" in schema.fix
    answer = json.dumps({"target": "a", "desired": ["a"], "preserve": [], "forbidden": []})
    with serving(answer=lambda text: answer) as url:
        _, schema = found("server", llm__model="echo", llm__url=url, llm__prompt="roles")
        assert schema.status == "ok"


def test_a_cache_that_cannot_be_written_is_found(tmp_path: Path) -> None:
    (file := tmp_path / "file").write_text("")
    (finding,) = found("cache", cache=file / "cache")
    assert finding.status == "problem"
    assert "--cache" in finding.fix
    (finding,) = found("cache", cache=Path("/proc/cache"))
    assert finding.status == "problem"
    assert "cannot be written" in finding.found


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of half a MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_found_and_compared_with_the_plan(
    small_disk: Path, small_world: Path
) -> None:
    (finding,) = found("cache", cache=small_disk)
    assert finding.status == "problem"
    assert "No space left on device" in finding.found
    (small_disk / "full").write_bytes(b"x" * (500 << 10))
    *_, finding = found(
        "dataset", "disk", dataset="circo", data_root=small_world, cache=small_disk / "cache"
    )
    assert finding.status == "problem"
    assert "the features still to be computed take" in finding.found
    assert [file.name for file in small_disk.iterdir()] == ["full"]


def test_a_wrong_configuration_is_a_finding() -> None:
    patient = Patient("demo", {"llm.prompt": "seise"}, None, None, Path("none"), Path("cache"))
    findings = list(examine(patient, ["configuration", "cache"]))
    assert not usable(findings)
    assert any("Did you mean 'seize'" in finding.found for finding in findings)
    assert findings[-1].part == "cache"

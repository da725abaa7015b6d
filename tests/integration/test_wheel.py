"""The wheel, built and installed into an environment of its own, works far away from a checkout."""

import json
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from pipeline import config, installation
from pipeline.models.prompts import edit as prompts
from pipeline.models.prompts import inversion as inversion_prompts
from pipeline.models.prompts import verify as verify_prompts
from tests.conftest import PROJECT
from tests.variables import without

SOURCES = (
    *("pipeline", "seize", "prompts", "data/models", "pyproject.toml", "setup.py"),
    *("requirements.txt", "README.md", "LICENSE"),
)
"""What a wheel is built from."""
SHIPPED = {
    **{"pipeline": "", "seize": ""},
    **{"prompts": "pipeline/shipped/", "data/models": "pipeline/shipped/"},
}
"""What is in a wheel, and below what."""
PROGRAM = """
import sys
import seize

assert not {"torch", "pydantic"} & sys.modules.keys(), "importing seize imports what is large"
gallery = seize.load("photos", config="demo")
assert isinstance(gallery, seize.Gallery)
gallery.index()
result = gallery.query(sys.argv[1], "is red")
assert isinstance(result, seize.Result)
print(len(result.edited_captions), result.images[0].path)
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the project is built from, in a folder of its own, which building may write into."""
    folder = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        if (PROJECT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(PROJECT / name, folder / name, ignore=ignored)
        else:
            shutil.copy(PROJECT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, as pip builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", str(sources), "--no-build-isolation", "--wheel-dir", str(folder))
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel; its dependencies are those of the tests' environment."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    pip("--python", str(folder / "bin" / "python"), "install", str(wheel))
    places = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages,) = folder.glob("lib/python*/site-packages")
    # A folder that a .pth file names gives its packages, not its own .pth files: no checkout.
    (packages / "dependencies.pth").write_text("\n".join(places))
    return folder


@pytest.fixture
def away(small_world: Path, tmp_path: Path) -> Path:
    """A folder with a rendered world where the demo looks for its own, and some photos."""
    shutil.copytree(small_world, tmp_path / "data" / "demo")
    pictures = sorted((small_world / "CIRCO").rglob("*.jpg"))[:8]
    (tmp_path / "photos").mkdir()
    for picture in pictures:
        shutil.copy(picture, tmp_path / "photos")
    return tmp_path


def pip(*arguments: str) -> None:
    """Run pip, which may neither ask an index nor look at dependencies."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", *arguments, "--no-index", "--no-deps"],
        env=without("PYTHONWARNINGS"), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def call(environment: Path, folder: Path, program: str, *arguments: str) -> str:
    """Return what a program of the environment prints, run in ``folder``, without the checkout."""
    done = subprocess.run(
        [str(environment / "bin" / program), *arguments],
        cwd=folder, env=without("PYTHONPATH"), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_all_that_is_shipped(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    for folder, place in SHIPPED.items():
        files = [file for file in (PROJECT / folder).rglob("*") if file.is_file()]
        assert files
        for file in files:
            if "__pycache__" not in file.parts:
                name = f"{place}{file.relative_to(PROJECT).as_posix()}"
                assert sizes[name] == file.stat().st_size


def test_an_archive_of_the_sources_builds_the_same_wheel(sources: Path, wheel: Path) -> None:
    made = "from setuptools.build_meta import build_sdist as b; print(b('dist'))"
    done = subprocess.run(
        [sys.executable, "-c", made],
        cwd=sources, env=without("PYTHONWARNINGS"), capture_output=True, text=True, check=True,
    )  # fmt: skip
    with tarfile.open(sources / "dist" / done.stdout.split()[-1]) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if not re.match(r"seize-[\d.]+\.dist-info/", name):
                assert name.removeprefix("pipeline/shipped/") in inside
    assert {"setup.py", "requirements.txt"} <= inside


def test_prompts_presets_and_help_come_with_it(environment: Path, away: Path) -> None:
    listed = json.loads(call(environment, away, "seize", "prompts", "list", "--json"))
    verify = {f"verify/{name}" for name in verify_prompts.names()}
    inversion = {f"inversion/{name}" for name in inversion_prompts.names()}
    assert listed.keys() == {*prompts.names(), *verify, *inversion}
    shown = yaml.safe_load(call(environment, away, "seize", "config", "show", "demo"))
    assert shown["search"] == config.load("demo").model_dump(mode="json")["search"]
    model = Path(shown["captioner"]["model"])
    assert model.is_dir()
    assert model.is_relative_to(environment)
    assert "--alpha-neg" in call(environment, away, "seize", "run", "--help")
    assert call(environment, away, "python", "-m", "seize", "--version").startswith(
        "seize, version"
    )


def test_doctor_asks_for_what_is_required_and_for_no_extra(environment: Path, away: Path) -> None:
    program = (
        "from pipeline import installation\nprint(*(one.name for one in installation.installed()))"
    )
    asked = call(environment, away, "python", "-c", program).split()
    wanted = installation.requirement_lines(PROJECT / "requirements.txt")
    assert asked == [Requirement(line).name for line in wanted]


def test_the_demo_works_and_writes_where_it_is_run(environment: Path, away: Path) -> None:
    def installed() -> set[Path]:
        return {file for file in environment.rglob("*") if "__pycache__" not in file.parts}

    before = installed()
    result = json.loads(call(environment, away, "seize", "demo", "--json"))
    assert result["metrics"].keys() == {"circo-val", "cirr-val", "fashioniq-val"}
    assert result["metrics"]["circo-val"]["mAP@10"] > 50
    for file in (*result["submissions"], result["contact_sheet"]):
        assert (away / file).is_file()
    written = {file.name for file in away.iterdir()}
    assert written == {"cache", "data", "outputs", "photos", "submissions"}
    assert installed() == before


def test_the_page_works(environment: Path, away: Path) -> None:
    call(environment, away, "seize", "index", "photos", "--config", "demo")
    seize = str(environment / "bin" / "seize")
    with subprocess.Popen(
        [seize, "app", "photos", "--config", "demo", "--port", "0"],
        cwd=away, env=without("PYTHONPATH") | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
            assert found
            with urllib.request.urlopen(found[0]) as answer:
                page = answer.read().decode()
            assert "<title>" in page
            files = re.findall(r'(?:src|href)="/([\w.]+)"', page)
            assert set(files) >= {"app.css", "app.js", "icon.svg"}
            for name in files:
                with urllib.request.urlopen(found[0] + name) as answer:
                    assert answer.status == 200
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(300)


def test_a_program_imports_seize(environment: Path, away: Path) -> None:
    picture = min((away / "photos").iterdir())
    said = call(environment, away, "python", "-c", PROGRAM, str(picture))
    count, path = said.split()
    assert int(count) == 15
    assert (away / "photos" / path).is_file()


def test_a_missing_package_is_not_said_to_be_in_a_file_that_is_not_there(
    environment: Path, away: Path
) -> None:
    program = "from pipeline.errors import InstallationError as E; print(E.of(ImportError('x')))"
    said = call(environment, away, "python", "-c", program)
    assert "pip install the wheel of seize again" in said
    assert "requirements.txt" not in said

"""docs/extending.md: the package that its blocks make is installed and used."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageStat

from tests.conftest import PROJECT

PAGE = PROJECT / "docs" / "extending.md"
BLOCK = re.compile(r"^```\w+\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The page's package, laid out as pip would install it."""
    blocks = dict(BLOCK.findall(PAGE.read_text(encoding="utf-8")))
    project = tomllib.loads(blocks.pop("pyproject.toml"))["project"]
    place = tmp_path / "installed"
    for name, text in blocks.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text, encoding="utf-8")
    (place / "mycir" / "__init__.py").touch()
    information = place / f"{project['name']}-{project['version']}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    points = [
        line
        for group, own in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {target}" for name, target in own.items()))
    ]
    (information / "entry_points.txt").write_text("\n".join(points) + "\n")
    return place


def seize(installed: Path, *arguments: str) -> Any:
    """Run the command beside the installed package; return what --json prints."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "--quiet", *arguments, "--json"],
        env=os.environ | {"PYTHONPATH": f"{installed}:{PROJECT}"},
        cwd=installed.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def shapes(installed: Path, small_world: Path) -> list[str]:
    """The page's benchmark in a folder `data`: its images' names, each a query's reference."""
    pictures = sorted((small_world / "CIRCO").rglob("*.jpg"))[:8]
    images = installed.parent / "data" / "shapes" / "images"
    images.mkdir(parents=True)
    for picture in pictures:
        (images / picture.name).write_bytes(picture.read_bytes())
    names = [picture.name for picture in pictures]
    (images.parent / "images.json").write_text(json.dumps(names))
    queries = [
        {"id": str(i), "reference": name, "caption": "has a red circle", "target": names[i - 1]}
        for i, name in enumerate(names)
    ]
    (images.parent / "queries.json").write_text(json.dumps(queries))
    return names


OPTIONS = "--dataset", "shapes", "--config", "demo"


def test_the_page_s_package_adds_a_benchmark_a_clue_and_a_method(
    installed: Path, shapes: list[str]
) -> None:
    made = seize(installed, "run", *OPTIONS, "--method", "novelty")
    assert [report["stage"] for report in made["stages"]] == ["embed", "embed", "search", "submit"]
    assert made["metrics"].keys() == {"recall@1", "recall@5"}
    (written,) = (installed.parent / "submissions").glob("*[!g].json")  # not the .config.json
    lists = json.loads(written.read_text())
    assert lists.keys() == {str(number) for number in range(len(shapes))}

    still = "--set", "search.novelty.shapes.strength=0"
    seize(installed, "search", *OPTIONS, "--method", "image,novelty", *still)
    found = seize(installed, "compare", *OPTIONS, "--method", "image,novelty", *still)
    values: dict[str, list[float]] = {}
    for line in found["table"]:
        values.setdefault(line["method"], []).append(line["value"])
    assert values["novelty"] == values["image"], "without strength it is the image alone"

    tuned = seize(installed, "tune", *OPTIONS, "--method", "novelty")
    assert tuned["best"]["strength"] in (0.5, 1, 2, 4)

    seize(installed, "index", "data/shapes/images", "--config", "demo")
    answer = [
        "query",
        f"data/shapes/images/{shapes[0]}",
        "has a red circle",
        "--gallery",
        "data/shapes/images",
    ]
    result = seize(installed, *answer, "--config", "demo", "--method", "novelty")
    assert result["method"] == "novelty"
    assert len(result["images"]) == len(shapes) - 1


def test_the_page_s_package_adds_an_encoder_and_a_captioner(
    installed: Path, shapes: list[str]
) -> None:
    given = *OPTIONS, "--clip", "colours:mean", "--captioner", "colours:mean"
    made = seize(installed, "run", *given, "--method", "text")
    assert made["metrics"].keys() == {"recall@1", "recall@5"}
    ranking = next((installed.parent / "cache").rglob("search/*.jsonl")).read_text().splitlines()
    of = {
        name: ImageStat.Stat(Image.open(installed.parent / "data/shapes/images" / name)).mean
        for name in shapes
    }
    redness = {name: mean[0] / np.linalg.norm(mean) for name, mean in of.items()}
    expected = sorted(shapes[1:], key=lambda name: -redness[name])
    assert json.loads(ranking[1])["images"] == expected, "the caption names red alone"
    (report,) = seize(installed, "caption", *given)
    assert report["computed"] == len(shapes)
    captions = next((installed.parent / "cache").rglob("caption/*.jsonl")).read_text().splitlines()
    assert json.loads(captions[1])["captions"][0].startswith("a picture that is mostly ")

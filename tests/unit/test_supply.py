"""Dependencies: exactly what is imported, in tested ranges, each for a reason, and audited."""

import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipeline import installation
from tests import audit
from tests.conftest import PROJECT

FILES = sorted(PROJECT.glob("requirements*.txt"))
RUNTIME, DEVELOPMENT = PROJECT / "requirements.txt", PROJECT / "requirements-dev.txt"
BESIDE = {"milvus-lite"}
"""Packages that another one loads: pymilvus, where it is given a file."""
MOST = 30
"""Direct dependencies; a further one has to be worth it."""


def names(file: Path) -> set[str]:
    lines = installation.requirement_lines(file)
    return {canonicalize_name(Requirement(line).name) for line in lines}


def packages(folder: Path) -> set[str]:
    """The packages whose modules are imported below a folder."""
    providers = importlib.metadata.packages_distributions()
    modules = installation.imported(folder) - {"tests"}
    assert modules <= providers.keys(), "every module must be of some package"
    return {canonicalize_name(providers[module][0]) for module in modules}


def test_requirements_are_what_is_imported() -> None:
    assert packages(PROJECT / "pipeline") | BESIDE == names(RUNTIME)
    assert len(names(RUNTIME)) <= MOST


def test_tests_import_nothing_that_is_not_required() -> None:
    assert packages(PROJECT / "tests") <= names(RUNTIME) | names(DEVELOPMENT)


def test_pyproject_reads_the_same_file_and_names_no_package_itself() -> None:
    content = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "dependencies" in content["project"]["dynamic"]
    assert "dependencies" not in content["project"]
    dynamic = content["tool"]["setuptools"]["dynamic"]
    assert dynamic["dependencies"] == {"file": ["requirements.txt"]}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_each_requirement_has_a_tested_range_and_a_reason(file: Path) -> None:
    reason, fresh = "", False
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            reason, fresh = f"{reason if fresh else ''} {line[1:].strip()}", True
            continue
        fresh = False
        requirement = Requirement(line)
        bounds = {one.operator: one.version for one in requirement.specifier}
        assert set(bounds) in ({">=", "<"}, {"=="}), f"{line}: give the tested range"
        assert re.search(rf"\b{re.escape(requirement.name)}\b", reason), f"{line}: say why"
        assert reason.endswith("."), f"{line}: in a sentence"


@pytest.mark.parametrize("file", [RUNTIME, DEVELOPMENT], ids=lambda file: file.name)
def test_what_is_installed_is_in_range(file: Path) -> None:
    for line in installation.requirement_lines(file):
        requirement = Requirement(line)
        version = importlib.metadata.version(requirement.name)
        assert requirement.specifier.contains(version), f"{line}, but {version} is installed"


REPORT: dict[str, Any] = {
    "dependencies": [
        {"name": "pillow", "version": "9.0", "vulns": [
            {"id": "PYSEC-1", "aliases": ["CVE-7"], "fix_versions": ["9.1"]},
            {"id": "PYSEC-2", "aliases": [], "fix_versions": []},
        ]},
        {"name": "click", "version": "8.5", "vulns": []},
        {"name": "torch", "skip_reason": "no data"},
    ]
}  # fmt: skip
NOTHING = {"dependencies": [{"name": "torch", "skip_reason": "no data"}]}


def test_a_known_vulnerability_passes_only_with_a_reason() -> None:
    assert audit.judge(REPORT, {}).found == [
        "pillow 9.0: PYSEC-1, mended in 9.1",
        "pillow 9.0: PYSEC-2, mended in no version",
    ]
    accepted = audit.read_accepted("# why\nCVE-7: TIFF is not read\nCVE-8: old\n")
    found = audit.judge(REPORT, accepted)
    assert found.found == ["pillow 9.0: PYSEC-2, mended in no version"]
    assert found.accepted == ["pillow 9.0: PYSEC-1 (TIFF is not read)"]
    assert found.unused == ["CVE-8"]
    assert "Without data: torch" in found.render()
    with pytest.raises(click.ClickException, match="for no reason"):
        audit.read_accepted("CVE-7\n")


@pytest.mark.parametrize(
    ("said", "code", "told"),
    [
        (json.dumps(REPORT), 1, "VULNERABLE: pillow 9.0: PYSEC-1"),
        (json.dumps(NOTHING), 0, "NOT AUDITED: the audit data cannot be reached"),
        ("", 0, "NOT AUDITED: the audit data cannot be reached"),
    ],
)
def test_the_audit_fails_for_what_it_finds_and_says_when_it_could_not_look(
    tmp_path: Path, said: str, code: int, told: str
) -> None:
    (tmp_path / "report").write_text(said)
    program = tmp_path / "pip-audit"
    program.write_text(f"#!/bin/sh\ncat {tmp_path / 'report'}\n")
    program.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "tests.audit", str(program)],
        cwd=PROJECT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code
    assert told in done.stdout

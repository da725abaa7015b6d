"""Dependencies: exactly what is imported, in tested ranges, each for a reason, and audited."""

import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipeline import installation
from tests import audit
from tests.conftest import PROJECT

FILES = sorted(PROJECT.glob("requirements*.txt"))
RUNTIME, DEVELOPMENT = PROJECT / "requirements.txt", PROJECT / "requirements-dev.txt"
BESIDE = {"milvus-lite"}
"""Packages that another one loads: pymilvus, where it is given a file."""
MOST = 31
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


def extras() -> dict[str, Requirement]:
    """What pyproject.toml offers beyond the requirements: by package."""
    content = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    lines = [
        line for extra in content["project"]["optional-dependencies"].values() for line in extra
    ]
    return {canonicalize_name(one.name): one for one in map(Requirement, lines)}


def test_extras_are_tested_in_the_range_that_they_name() -> None:
    tested = {
        canonicalize_name(one.name): one
        for one in map(Requirement, installation.requirement_lines(DEVELOPMENT))
    }
    assert extras()
    for name, requirement in extras().items():
        assert tested[name].specifier == requirement.specifier


def test_requirements_are_what_is_imported() -> None:
    assert packages(PROJECT / "pipeline") - set(extras()) | BESIDE == names(RUNTIME)
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


CLEAN = {"dependencies": [{"name": "click", "version": "8.5", "vulns": []}], "fixes": []}
REFUSED = """Traceback (most recent call last):
  File "adapters.py", line 723, in send
urllib3.exceptions.ProxyError: ('Unable to connect to proxy', ...)

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "pip-audit", line 8, in <module>
requests.exceptions.ProxyError: HTTPSConnectionPool(host='...', port=443): Max retries exceeded
"""
BLOCKED = """ERROR:pip_audit._cli:Could not connect to PyPI's vulnerability feed
ERROR:pip_audit._cli:Tip: your network may be blocking this service. Try another service
"""
DOWN = """requests.exceptions.HTTPError: 503 Server Error: Service Unavailable for url: ...

The above exception was the direct cause of the following exception:

pip_audit._service.interface.ServiceError
"""
CRASH = """Traceback (most recent call last):
  File "pip-audit", line 8, in <module>
    requests.exceptions.ConnectionError  # a line of code, not what happened
TypeError: unhashable type
"""
USAGE = "usage: pip-audit [-h]\npip-audit: error: unrecognized arguments: --frmat\n"
UNAUDITED = "NOT AUDITED: the audit data cannot be reached"
FAILED = "pip-audit itself failed"


@pytest.mark.parametrize(
    ("out", "err", "ended", "code", "told"),
    [
        (json.dumps(REPORT), "Found 2 vulnerabilities", 1, 1, "VULNERABLE: pillow 9.0: PYSEC"),
        (json.dumps(CLEAN), "No known vulnerabilities found", 0, 0, "Audited 1 packages: 0 vuln"),
        (json.dumps(NOTHING), "No known vulnerabilities found", 0, 0, UNAUDITED),
        ("", REFUSED, 1, 0, UNAUDITED),
        ("", BLOCKED, 1, 0, UNAUDITED),
        ("", DOWN, 1, 0, UNAUDITED),
        ("", CRASH, 1, 1, f"{FAILED} (exit code 1): "),
        ("", USAGE, 2, 1, f"{FAILED} (exit code 2): usage"),
        ("", "", 0, 1, f"{FAILED} (exit code 0)"),
        ("", "", 137, 1, f"{FAILED} (exit code 137)"),
        (json.dumps(REPORT)[:50], "", 1, 1, FAILED),
        ("[]", "", 0, 1, FAILED),
        ('{"dependencies": [{"name": "click"}]}', "", 0, 1, FAILED),
        ('{"dependencies": []}', "No known vulnerabilities found", 0, 1, "found no package in"),
        (json.dumps(CLEAN), "MemoryError", 1, 1, f"{FAILED} (exit code 1): MemoryError"),
    ],
)  # fmt: skip
def test_the_audit_fails_for_what_it_finds_and_with_pip_audit_and_says_when_it_could_not_look(
    tmp_path: Path, out: str, err: str, ended: int, code: int, told: str
) -> None:
    (tmp_path / "out").write_text(out)
    (tmp_path / "err").write_text(err)
    program = tmp_path / "pip-audit"
    program.write_text(f"#!/bin/sh\ncat {tmp_path}/out; cat {tmp_path}/err >&2; exit {ended}\n")
    program.chmod(0o755)
    done = CliRunner().invoke(audit.main, [str(program)])
    assert done.exit_code == code
    assert told in done.output


def test_the_audit_fails_where_there_is_no_pip_audit(tmp_path: Path) -> None:
    done = CliRunner().invoke(audit.main, [str(tmp_path / "pip-audit")])
    assert done.exit_code == 1
    assert "cannot be started" in done.output


@pytest.mark.parametrize("kind", [DeprecationWarning, PendingDeprecationWarning, FutureWarning])
def test_a_deprecation_is_an_error_here_and_in_processes_of_tests(kind: type[Warning]) -> None:
    with pytest.raises(kind):
        warnings.warn("old", kind, stacklevel=1)
    program = f"import warnings; warnings.warn('old', {kind.__name__})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 1
    assert f"{kind.__name__}: old" in done.stderr.decode()


LOCKS = sorted(PROJECT.glob("requirements*.lock"))
NOT_LOCKED = {"requirements-lock.txt"}
"""What makes the locks has none itself."""


def pins(file: Path) -> dict[str, list[Requirement]]:
    """The requirements of a lock by package; several where they depend on the platform."""
    found: dict[str, list[Requirement]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        if line and line[0] not in " #":
            pin = Requirement(line.removesuffix("\\"))
            found.setdefault(canonicalize_name(pin.name), []).append(pin)
    return found


def test_each_file_of_ranges_has_a_lock() -> None:
    ranges = {file.stem for file in FILES if file.name not in NOT_LOCKED}
    assert ranges == {file.stem for file in LOCKS}


@pytest.mark.parametrize("file", LOCKS, ids=lambda file: file.name)
def test_a_lock_holds_exact_versions_within_the_ranges_with_hashes(file: Path) -> None:
    locked = pins(file)
    for line in installation.requirement_lines(file.with_suffix(".txt")):
        wanted = Requirement(line)
        for pin in locked[canonicalize_name(wanted.name)]:
            (exact,) = pin.specifier
            assert wanted.specifier.contains(exact.version), f"{line}: run `make lock`"
    assert all(
        one.operator == "==" for each in locked.values() for p in each for one in p.specifier
    )
    text = file.read_text(encoding="utf-8")
    packages = re.findall(r"^[\w.-]+==.*\\\n    --hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)
    assert len(packages) == sum(map(len, locked.values())), "each has a hash"


@pytest.mark.parametrize("file", LOCKS, ids=lambda file: file.name)
def test_a_lock_names_no_index_host_or_path(file: Path) -> None:
    for line in file.read_text(encoding="utf-8").splitlines():
        assert not re.search(r"://|(^|\s)[~/.]|--(?!hash=)|@", line), line


def test_what_is_installed_in_both_is_locked_alike() -> None:
    runtime, development = (
        pins(RUNTIME.with_suffix(".lock")),
        pins(DEVELOPMENT.with_suffix(".lock")),
    )
    for name in runtime.keys() & development.keys():  # the markers say who else needs it
        versions = [
            sorted({str(pin.specifier) for pin in each[name]}) for each in (runtime, development)
        ]
        assert versions[0] == versions[1]

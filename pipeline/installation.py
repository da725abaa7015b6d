"""What the project needs installed, from the one place that says so, and whether it is there.

Nothing but the standard library is imported here before it is known to be there.
"""

import ast
import importlib.metadata
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
PROJECT = PACKAGE.parent
_SHIPPED = PACKAGE / "shipped"
IS_CHECKOUT = not _SHIPPED.is_dir()
"""Whether this is the repository itself; a wheel has the folders that travel with it elsewhere."""
SHIPPED = PROJECT if IS_CHECKOUT else _SHIPPED
"""The folder that holds ``prompts`` and ``data/models``: the checkout, or a part of the wheel."""
INSTALL = (
    "pip install -r requirements.txt"
    if IS_CHECKOUT
    else "pip install the wheel of seize again, with its dependencies (without --no-deps)"
)
"""What to do where a package is missing."""
OWN = {"pipeline", "seize"}
"""The packages of the project."""
WORLD = "world.json"
"""The file that marks the folder of a world that the demo rendered."""
REQUIREMENTS = PROJECT / "requirements.txt"
IMPORT_TIMEOUT = 300
"""Seconds in which all packages are imported, from a slow disk too."""

_IMPORT = """
import importlib, json, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
        why = None
    except BaseException as error:
        why = f"{type(error).__name__}: {error}"
    sys.stdout.write(json.dumps([name, why]) + "\\n")
    sys.stdout.flush()
"""


@dataclass(frozen=True)
class Installed:
    """One package that is required: its name, version and the versions that were tested."""

    name: str
    wanted: str
    version: str | None
    """None where it is not installed."""
    in_range: bool
    modules: tuple[str, ...]
    """The modules of it that the project imports."""


def requirement_lines(file: Path = REQUIREMENTS) -> list[str]:
    """Return the requirements of a file; of the installed package where there is no checkout."""
    if not IS_CHECKOUT:
        return importlib.metadata.requires("seize") or []
    lines = (line.partition("#")[0].strip() for line in file.read_text("utf-8").splitlines())
    return [line for line in lines if line]


def imported(folder: Path = PACKAGE) -> set[str]:
    """Return the modules of others that the code below ``folder`` imports, by their first name."""
    names = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - OWN


def python_wanted() -> str:
    """Return the versions of Python that the project takes, as in ``>=3.11``."""
    if IS_CHECKOUT:
        file = PROJECT / "pyproject.toml"
        wanted = tomllib.loads(file.read_text(encoding="utf-8"))["project"]["requires-python"]
    else:
        wanted = importlib.metadata.metadata("seize")["Requires-Python"]
    return str(wanted)


def in_range(version: str, wanted: str) -> bool:
    """Return whether a version is within a range such as ``>=2.15,<3``."""
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(wanted).contains(version, prereleases=True)


def installed() -> list[Installed]:
    """Return every package that is required, with what is installed of it."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    modules: dict[str, set[str]] = {}
    providers = importlib.metadata.packages_distributions()
    for module in imported():
        for distribution in providers.get(module, ()):
            modules.setdefault(canonicalize_name(distribution), set()).add(module)
    found = []
    for line in requirement_lines():
        required = Requirement(line)
        if required.marker is not None and not required.marker.evaluate({"extra": ""}):
            continue  # of an extra that nobody has to install, or of another machine
        name = required.name
        wanted = line.partition(";")[0].strip().removeprefix(name)
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = None
        within = version is not None and in_range(version, wanted)
        own = tuple(sorted(modules.get(canonicalize_name(name), ())))
        found.append(Installed(name, wanted, version, within, own))
    return found


def import_errors(modules: Iterable[str]) -> dict[str, str]:
    """Return why modules cannot be imported, by name; none are for those that can.

    They are imported by a process of their own, which a broken one may take down with it.
    """
    errors: dict[str, str] = {}
    left = list(modules)
    while left:
        done = _import(left)
        errors |= {name: why for name, why in done if why is not None}
        left = left[len(done) :]
        if left:  # the process died at the next one
            errors[left.pop(0)] = "importing it ends the process, or takes forever"
    return errors


def _import(modules: Sequence[str]) -> list[tuple[str, str | None]]:
    command = [sys.executable, "-c", _IMPORT, *modules]
    try:
        said = subprocess.run(
            command, capture_output=True, text=True, timeout=IMPORT_TIMEOUT, check=False
        ).stdout
    except subprocess.TimeoutExpired as late:
        said = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
    found = []
    for line in said.splitlines():
        if line.startswith('["'):  # packages may print at their import
            name, why = json.loads(line)
            found.append((name, why and " ".join(why.split())[:300]))
    return found

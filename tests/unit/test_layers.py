"""The layout of `pipeline/`: imports run only downwards, in no circle, and a file is one job."""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import pipeline

PACKAGE = Path(pipeline.__file__).parent

LAYERS = (
    {
        *{"config", "errors", "installation", "masking", "nesting", "plugins", "printable"},
        *{"processes", "profile", "records", "run", "timings", "yamls"},
    },
    {"store"},
    {"datasets", "images"},
    {"models"},
    {"retrieval"},
    {"stages"},
    {"study", "own"},
    {"recipes"},
    {"pages", "doctor"},
    {"demo"},
    {"cli"},
)
"""Rooms, the lowest layer first: modules and folders right below `pipeline/`.

A room imports from layers below its own. Rooms that share a layer know nothing of each other, save
those of the first, the vocabulary.
"""

EXCEPTIONS = {
    "pipeline": "the public face: opens a folder of images, whatever that takes",
    "pipeline.__main__": "starts the program",
}
"""Modules that may import from any layer, with the reason."""

LONGEST = 420
"""Lines of a module that need no reason."""

ONE_JOB: dict[str, str] = {}
"""Longer modules, with the reason why they are not two."""

Graph = dict[str, set[str]]


def modules(package: Path) -> dict[str, Path]:
    """Return the files of a package by module name."""
    files = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package.parent).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return files


def imports(package: Path) -> Graph:
    """Return the modules of the package that each of its modules imports, wherever it does so."""
    files = modules(package)
    return {
        name: {
            module
            for path in imported(ast.parse(file.read_bytes()))
            if (module := owner(path, files))
        }
        for name, file in files.items()
    }


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted paths that are imported, in functions too, but not for type checking."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from imported(ast.Module(node.orelse, []))
        else:
            yield from imported(node)


def owner(path: str, files: Iterable[str]) -> str | None:
    """Return the module that an imported path is, or whose name it is; None for another package."""
    while path not in files:
        path, dot, _ = path.rpartition(".")
        if not dot:
            return None
    return path


def room(module: str) -> str:
    """Return what stands right below the package: `pipeline.store.files` is in `store`."""
    return module.split(".")[1] if "." in module else ""


def upwards(graph: Graph, layers: tuple[set[str], ...], exceptions: Iterable[str]) -> list[str]:
    """Return the imports that do not run downwards."""
    floor = {name: number for number, rooms in enumerate(layers) for name in rooms}

    def runs_down(module: str, other: str) -> bool:
        above, below = room(module), room(other)
        if not below or above == below:
            return True
        return floor[below] < floor[above] or floor[below] == floor[above] == 0

    return [
        f"{module} imports {other}"
        for module, others in graph.items()
        if module not in exceptions
        for other in sorted(others)
        if not runs_down(module, other)
    ]


def circles(graph: Graph) -> list[set[str]]:
    """Return the sets of modules that import each other, directly or by way of others."""
    reach = {module: reached(graph, module) for module in graph}
    found: list[set[str]] = []
    for module in graph:
        circle = {other for other in reach[module] if module in reach[other]}
        if circle and circle not in found:
            found.append(circle)
    return found


def reached(graph: Graph, start: str) -> set[str]:
    """Return all that a module imports, directly or by way of others."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        new = graph[todo.pop()] - seen
        seen |= new
        todo += new
    return seen


def test_every_room_has_a_layer() -> None:
    rooms = {room(module) for module in modules(PACKAGE)} - {"", "__main__"}
    unknown = rooms - set.union(*LAYERS)
    assert not unknown, f"say in LAYERS, and in the design, where {sorted(unknown)} belong"


def test_imports_run_only_downwards() -> None:
    assert upwards(imports(PACKAGE), LAYERS, EXCEPTIONS) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: others for name, others in imports(PACKAGE).items() if name not in EXCEPTIONS}
    graph = {name: others & graph.keys() for name, others in graph.items()}
    assert circles(graph) == []


def test_nothing_below_imports_what_may_import_anything() -> None:
    """Else the exceptions would hide an import that runs upwards."""
    files = modules(PACKAGE)
    taken = {
        f"{module} takes {path}"
        for module, file in files.items()
        if module not in EXCEPTIONS
        for path in imported(ast.parse(file.read_bytes()))
        if owner(path, files) in EXCEPTIONS and path != "pipeline.__version__"
    }
    assert taken == set()


def test_files_are_short_or_one_job() -> None:
    lines = {name: len(file.read_bytes().splitlines()) for name, file in modules(PACKAGE).items()}
    long = {name for name, count in lines.items() if count > LONGEST}
    assert long - ONE_JOB.keys() == set(), "split them, or say in ONE_JOB why they are one job"
    assert ONE_JOB.keys() - long == set(), "these are short now and need no reason"


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A package of two layers, whose lower one imports upwards, and in a circle, in a function."""
    package = tmp_path / "house"
    for name, text in {
        "__init__": "",
        "roof/__init__": "",
        "roof/tiles": "from house.cellar import stones\nimport house.roof.beams",
        "roof/beams": "import json\ndef hold():\n    from house.roof import tiles",
        "cellar/__init__": "",
        "cellar/stones": "def fly():\n    from house.roof.tiles import Tile",
        "cellar/earth": "import typing as t\nif t.TYPE_CHECKING:\n    import house.roof.tiles",
    }.items():
        file = package / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return package


def test_what_is_imported_is_seen_wherever_it_stands(house: Path) -> None:
    assert imports(house) == {
        "house": set(),
        "house.cellar": set(),
        "house.cellar.earth": set(),
        "house.cellar.stones": {"house.roof.tiles"},
        "house.roof": set(),
        "house.roof.beams": {"house.roof.tiles"},
        "house.roof.tiles": {"house.cellar.stones", "house.roof.beams"},
    }


def test_an_import_upwards_and_a_circle_are_noticed(house: Path) -> None:
    graph, layers = imports(house), ({"ground"}, {"cellar"}, {"roof"})
    assert upwards(graph, layers, []) == ["house.cellar.stones imports house.roof.tiles"]
    assert upwards(graph, layers, ["house.cellar.stones"]) == []
    assert circles(graph) == [{"house.cellar.stones", "house.roof.beams", "house.roof.tiles"}]


def test_rooms_of_one_layer_know_nothing_of_each_other(house: Path) -> None:
    graph = imports(house)
    told = "house.roof.tiles imports house.cellar.stones"
    assert told in upwards(graph, ({"ground"}, {"cellar", "roof"}), [])
    assert upwards(graph, ({"cellar", "roof"},), []) == []

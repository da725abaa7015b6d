"""Runs the cells of ``docs/notebook.ipynb`` and keeps what they show, without Jupyter.

``python -m tests.notebook`` runs them in the repository, on the world of ``make demo``, and writes
their outputs anew. A cell shows its last expression as a notebook does: as HTML, as a picture, or
as text.
"""

import ast
import base64
import contextlib
import io
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.documents import PROJECT

FILE = PROJECT / "docs" / "notebook.ipynb"


def load() -> dict[str, Any]:
    """Return the notebook."""
    content: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return content


def code(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the cells with code, in order."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def outputs(notebook: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """Run the cells one after the other; yield what each shows, as the format has it."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(code(notebook), start=1):
        tree = ast.parse("".join(cell["source"]), f"cell {number}")
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile(tree, f"cell {number}", "exec"), names)
            shown = None
            if isinstance(last, ast.Expr):
                expression = ast.Expression(last.value)
                shown = eval(compile(expression, f"cell {number}", "eval"), names)
        found: list[dict[str, Any]] = []
        if said.getvalue():
            text = said.getvalue().splitlines(keepends=True)
            found.append({"output_type": "stream", "name": "stdout", "text": text})
        if shown is not None:
            result = {"output_type": "execute_result", "execution_count": number, "metadata": {}}
            found.append(result | {"data": _data(shown)})
        yield found


def _data(shown: Any) -> dict[str, Any]:
    """Return an object in the kinds that it can be shown as."""
    text = re.sub(r" at 0x[0-9A-F]+", "", repr(shown))  # another one every time
    data: dict[str, Any] = {"text/plain": text.splitlines(keepends=True)}
    if (html := getattr(shown, "_repr_html_", None)) is not None:
        data["text/html"] = html().splitlines(keepends=True)
    if (png := getattr(shown, "_repr_png_", None)) is not None:
        data["image/png"] = base64.b64encode(png()).decode()
    return data


def kinds(shown: list[dict[str, Any]]) -> list[list[str]]:
    """Return in which kinds the outputs of a cell are shown."""
    return [sorted(output.get("data", {"stream": 0})) for output in shown]


def _write() -> None:
    notebook = load()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        data.mkdir()
        (data / "demo").symlink_to(PROJECT / "data" / "demo")
        with contextlib.chdir(folder):
            made = list(outputs(notebook))
    for number, (cell, shown) in enumerate(zip(code(notebook), made, strict=True), start=1):
        cell |= {"outputs": shown, "execution_count": number}
    FILE.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _write()

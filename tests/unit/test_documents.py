"""README and docs say what the program does: help, links, marks of measured tables."""

from pathlib import Path

import pytest

from tests import documents
from tests.benchmarks.__main__ import WRITTEN


def test_the_help_page_is_what_the_commands_say() -> None:
    assert documents.HELP.read_text(encoding="utf-8") == documents.help_page(), (
        "docs/help.md is not up to date: run python -m tests.documents"
    )


@pytest.mark.parametrize("page", documents.pages(), ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    targets = documents.links(page.read_text(encoding="utf-8"))
    assert [t for t in targets if not (page.parent / t).exists()] == []


def test_every_page_is_reachable_from_the_readme() -> None:
    linked = documents.links((documents.PROJECT / "README.md").read_text(encoding="utf-8"))
    names = {page.name for page in documents.pages()} - {"README.md"}
    assert names <= {Path(target).name for target in linked}


def test_the_readme_is_short() -> None:
    lines = (documents.PROJECT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 240


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_each_written_table_has_one_place(name: str) -> None:
    marks = f"<!-- measured: {name} -->", f"<!-- end: {name} -->"
    texts = [page.read_text(encoding="utf-8") for page in documents.pages()]
    assert [sum(text.count(mark) for text in texts) for mark in marks] == [1, 1]


def test_filling_changes_what_is_between_the_marks_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- measured: x -->\nold\n<!-- end: x -->\nafter\n")
    monkeypatch.setattr(documents, "pages", lambda: [page])
    assert documents.fill("x", "| new |\n") == page
    once = page.read_text()
    assert once == "before\n<!-- measured: x -->\n\n| new |\n\n<!-- end: x -->\nafter\n"
    documents.fill("x", "| new |\n")
    assert page.read_text() == once
    with pytest.raises(LookupError):
        documents.fill("y", "")


def test_no_help_shows_a_range_without_ends() -> None:
    assert "None]" not in documents.help_page()

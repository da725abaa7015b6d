"""Names of models: which kind each chooses, and what a kind tells before anything is loaded."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline import config, plugins
from pipeline.errors import ConfigError
from pipeline.models import captioners, encoders, llms, verifiers
from pipeline.models.kinds import Kind
from pipeline.stages import caption, edit
from tests.conftest import PROJECT
from tests.unit.test_plugins import package

ROLES = (captioners.ROLE, llms.ROLE, verifiers.ROLE, encoders.ROLE)


@pytest.mark.parametrize(
    ("model", "kind", "name"),
    [
        ("qwen", "served", "qwen"),
        ("qwen2.5:7b", "served", "qwen2.5:7b"),
        ("served:qwen2.5:7b", "served", "qwen2.5:7b"),
        ("transformers:data/models/llm", "transformers", "data/models/llm"),
        ("http://host/model", "served", "http://host/model"),
        ("", "served", ""),
    ],
)
def test_a_kind_is_what_stands_before_the_first_colon_where_it_is_one(
    model: str, kind: str, name: str
) -> None:
    assert llms.ROLE.of(model) == (kind, name)


def test_a_kind_misspelt_is_no_name_of_a_served_model() -> None:
    with pytest.raises(ConfigError, match=r"'transformer' is no kind of LLM.*transformers"):
        llms.ROLE.of("transformer:data/models/llm")
    with pytest.raises(ConfigError, match="There is no kind of LLM 'base'"):
        llms.ROLE.kind("base")


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_kind_alone_names_no_model(role: Any) -> None:
    for kind in role.kinds:
        with pytest.raises(ConfigError, match=f"names no {role.name}: {role.option} {kind}:NAME"):
            role.of(f"{kind}: ")


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_role_has_a_default_and_kinds_that_declare_themselves(role: Any) -> None:
    assert role.default in role.kinds
    for name in role.kinds:
        assert isinstance(role.kind(name), Kind)


def test_a_choice_has_the_bare_name_and_says_how_another_is_given() -> None:
    demo = config.load("demo").llm
    local = llms.ROLE.choose(demo.model_copy(update={"model": "transformers:x/y"}))
    assert (local.kind_name, local.name) == ("transformers", "x/y")
    assert local.files == ("x/y",)
    assert local.advice.startswith("--llm transformers:")
    served = llms.ROLE.choose(demo.model_copy(update={"model": "served:x"}))
    bare = llms.ROLE.choose(demo.model_copy(update={"model": "x"}))
    assert served == bare
    assert served.identity == bare.identity
    assert served.kind.served
    assert served.files == ()


def test_a_kind_tells_about_itself_before_a_library_of_models_is_imported() -> None:
    code = (
        "import sys\n"
        "from pipeline.models import captioners, encoders, llms, verifiers\n"
        "for each in (captioners, encoders, llms, verifiers):\n"
        "    for name in each.ROLE.kinds: each.ROLE.kind(name)\n"
        "print(sorted({'torch', 'transformers', 'open_clip'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_the_kind_of_a_bare_name_may_be_written_out_and_changes_no_file() -> None:
    plain = config.load("demo")
    full = config.load(
        "demo",
        {
            "captioner.model": "blip2:data/models/captioner",
            "clip.model": "open_clip:local-dir:data/models/clip",
        },
    )
    assert captioners.ROLE.chosen(full) == captioners.ROLE.chosen(plain)
    assert encoders.ROLE.chosen(full) == encoders.ROLE.chosen(plain)
    assert caption.settings(full) == caption.settings(plain)
    served = {"llm.model": "served:qwen2.5:7b"}, {"llm.model": "qwen2.5:7b"}
    one, other = (edit.settings(config.load("demo", each)) for each in served)
    assert one == other
    assert one != edit.settings(plain)


def test_what_is_no_kind_is_told_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path, "seize.captioners", "not_a_kind", "odd")
    (tmp_path / "not_a_kind.py").write_text("KIND = 'me'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins.entry_points.cache_clear()
    try:
        with pytest.raises(ConfigError, match=r"'odd' \(seize\.captioners\) is no kind of captio"):
            captioners.ROLE.chosen(config.load("demo", {"captioner.model": "odd:x"}))
    finally:
        plugins.entry_points.cache_clear()

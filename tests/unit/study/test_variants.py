"""The reference masked and kept, the shared concept told and not, from one run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.models import captioners, encoders, llms, verifiers
from pipeline.models.kinds import Role
from pipeline.run import Run
from pipeline.stages import search
from pipeline.study import variants
from tests.integration.test_cli import seize

MakeRun = Callable[..., Run]
PROMPT = """
name: with-concept
description: The demo's prompt, told the shared concept where there is one.
user: |-
  Image Content: {{ caption }}
  Instruction: {{ relative_caption }}{% if shared_concept %} , {{ shared_concept }}{% endif %}
max_tokens: 32
"""


@pytest.fixture
def prompt(tmp_path: Path) -> str:
    """A prompt for the demo's LLM that can tell the shared concept."""
    file = tmp_path / "with-concept.yaml"
    file.write_text(PROMPT)
    return str(file)


def test_both_readings_of_both_conditions_come_from_one_run_without_a_model(
    make_run: MakeRun, prompt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("circo", llm__prompt=prompt)
    given = [*run.command.split(), "--cache", str(run.cache), "--workers", "0"]
    given += ["--submissions", str(run.submissions), "--prompt", prompt, "--method", "seize,image"]
    for stage in ("caption", "edit", "embed"):
        assert seize(stage, *given).exit_code == 0
    # One of them is not made yet: its command is named, none is left out in silence.
    early = seize("compare", *given, "--variants")
    assert early.exit_code == 4, early.output
    assert "--set dataset.shared_concept=true" in early.output
    one = [*given[:-1], "seize"]
    assert seize("run", *one, "--variants").exit_code == 0

    def never(self: Role[Any, Any], *_: Any) -> None:
        raise AssertionError(f"the {self.name} was loaded")

    monkeypatch.setattr(Role, "load", never)
    for role in (captioners, encoders, llms, verifiers):
        with pytest.raises(AssertionError, match="was loaded"):
            role.ROLE.load(None, None)  # type: ignore[attr-defined]
    table = seize("compare", *given, "--variants", "--json")
    assert table.exit_code == 0, table.output
    told = json.loads(table.stdout)
    conditions = {n: (c["reference"], c["concept"]) for n, c in told["conditions"].items()}
    assert conditions == {
        "seize": ("masked", "no"),
        "seize, reference kept": ("kept", "no"),
        "seize, shared concept": ("masked", "yes"),
        "seize, reference kept, shared concept": ("kept", "yes"),
        # The concept makes no difference to a method that reads no text.
        "image": ("masked", "no"),
        "image, reference kept": ("kept", "no"),
    }
    values = {line["method"]: line["value"] for line in told["table"] if line["metric"] == "mAP@5"}
    assert values["image, reference kept"] < values["image"], "the reference is its own best match"
    text = seize("compare", *given, "--variants")
    assert "seize, reference kept, shared concept" in text.output


def test_a_prompt_that_cannot_tell_the_concept_leaves_only_the_reference(
    make_run: MakeRun, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    found = variants.of(make_run("circo"))
    assert [one.config.search.exclude_reference for one in found] == [True, False]
    assert "Left out: with the shared concept. The prompt 'demo' does not use" in caplog.text
    assert "--set search.exclude_reference=false" in found[1].command


def test_a_benchmark_has_the_variants_that_it_can_have(make_run: MakeRun) -> None:
    assert len(variants.of(make_run("cirr"))) == 1, "CIRR is defined without the reference"
    kept = variants.of(make_run("fashioniq", search__exclude_reference=False))
    assert [one.config.search.exclude_reference for one in kept] == [False, True]
    assert search.header(kept[0]) != search.header(kept[1])

"""All captions of a query edited by one call: vLLM's decoding is held to the numbers."""

from collections.abc import Callable
from pathlib import Path
from unittest import mock

from transformers import AutoTokenizer

from pipeline.models import llms
from pipeline.models.serving.vllm import serve
from pipeline.run import Run
from pipeline.stages import caption, edit
from tests.benchmarks.prefixes import ARGUMENTS
from tests.benchmarks.together import MODEL, Counted
from tests.vllm.conftest import binary

MakeRun = Callable[..., Run]


def test_one_call_a_query_edits_each_of_its_captions(make_run: MakeRun, tmp_path: Path) -> None:
    made = make_run(llm__prompt="demo-together")
    caption.caption(made)
    with serve(str(MODEL), tmp_path / "vllm.log", binary(), ARGUMENTS) as url:
        run = made.with_llm(str(MODEL), url)
        tokenizer = AutoTokenizer.from_pretrained(MODEL)
        counted = Counted(llms.load(run.config.llm, run.config.runtime), tokenizer)
        with mock.patch.object(llms, "load", return_value=counted):
            report = edit.edit(run)
    captions = caption.read(run)
    pairs = len(edit.pairs(run, captions))
    assert report.computed == pairs
    assert not report.failed  # each number has an edit, since the schema says so
    assert len(edit.groups(run, captions)) <= counted.calls < pairs / 3

"""One scheme of names for all models, and kinds of somebody else's, each in one file."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline import config, plugins
from pipeline.errors import ConfigError
from pipeline.models import captioners, encoders, llms, verifiers
from pipeline.models.kinds import Role
from pipeline.models.roles import ROLES
from pipeline.stages import caption, edit
from tests.conftest import PROJECT
from tests.unit.test_plugins import package

LIBRARIES = ("torch", "transformers", "open_clip", "aiohttp")
"""What is slow to import."""


@pytest.mark.parametrize(
    ("role", "model", "expected"),
    [
        (captioners.ROLE, "Salesforce/blip2-opt-2.7b", ("blip2", "Salesforce/blip2-opt-2.7b")),
        (captioners.ROLE, "blip2:/a/folder", ("blip2", "/a/folder")),
        (captioners.ROLE, "served:qwen2.5vl:7b", ("served", "qwen2.5vl:7b")),
        (captioners.ROLE, "imported:multi_caption_opt", ("imported", "multi_caption_opt")),
        (llms.ROLE, "qwen2.5:7b", ("served", "qwen2.5:7b")),
        (llms.ROLE, "transformers:/a:b", ("transformers", "/a:b")),
        (llms.ROLE, "served:transformer:x", ("served", "transformer:x")),
        (verifiers.ROLE, "Qwen/Qwen2.5-VL-7B-Instruct", ("served", "Qwen/Qwen2.5-VL-7B-Instruct")),
        (verifiers.ROLE, "imported:x", ("served", "imported:x")),  # it is no kind of verifier
        (encoders.ROLE, "ViT-L-14", ("open_clip", "ViT-L-14")),
        (encoders.ROLE, "local-dir:/a/folder", ("open_clip", "local-dir:/a/folder")),
        (encoders.ROLE, "open_clip:hf-hub:me/clip", ("open_clip", "hf-hub:me/clip")),
    ],
)
def test_a_kind_is_what_stands_before_the_first_colon_if_it_is_known(
    role: Role[Any, Any], model: str, expected: tuple[str, str]
) -> None:
    assert role.of(model) == expected


def test_a_misspelt_kind_is_told_and_how_such_a_name_is_given_all_the_same() -> None:
    with pytest.raises(ConfigError) as told:
        llms.ROLE.of("transformer:Qwen/Qwen2.5-7B")
    assert "'transformer' is no kind of LLM. Did you mean 'transformers'? Known: imported, " in str(
        told.value
    )
    assert "--llm served:transformer:Qwen/Qwen2.5-7B" in str(told.value)
    with pytest.raises(ConfigError, match=r"no kind of captioner 'blip3'\. Did you mean 'blip2'"):
        captioners.ROLE.kind("blip3")


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


def test_every_kind_is_found_and_told_without_a_library_of_models() -> None:
    program = (
        "import sys\n"
        "from pipeline.models import captioners, llms, verifiers\n"
        "print([m for m in sys.modules if m.startswith('pipeline.models.') and m.count('.') > 2])\n"
        "for package in (captioners, llms, verifiers):\n"
        "    [package.ROLE.kind(name) for name in package.ROLE.kinds if name != 'served']\n"
        "from pipeline.models import encoders\n"
        "encoders.ROLE.kind('open_clip')\n"
        f"print([m for m in {LIBRARIES} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, libraries = done.stdout.splitlines()
    assert libraries == "[]"
    assert "blip2" not in before
    assert "served" not in before
    assert {role.name: role.kinds for role in ROLES} == {
        "captioner": ("blip2", "imported", "served"),
        "LLM": ("imported", "served", "transformers"),
        "encoder": ("open_clip",),
        "verifier": ("served", "transformers"),
    }


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


CAPTIONER = '''
"""Says how bright an image is, as often as it is asked."""

from pipeline.models.captioners.base import InBatches
from pipeline.models.kinds import Kind


class Bright(InBatches):
    def __init__(self, settings, runtime):
        self.settings = settings

    def caption(self, ids, images):
        means = [sum(image.resize((1, 1)).getpixel((0, 0))) for image in images]
        return [[f"{self.settings.model} {m} {n}" for n in range(self.settings.samples)]
                for m in means]


KIND = Kind(load=Bright, identity=lambda s: {"model": s.model, "samples": s.samples})
'''

LLM = '''
"""Answers with the last words of what it is asked, in another order."""

from pipeline.models.kinds import Kind
from pipeline.models.llms.base import Answer


class Backwards:
    def __init__(self, settings, runtime):
        self.name = settings.model

    def answer(self, requests):
        for request in requests:
            words = " ".join(m["content"] for m in request.messages).split()[:-30:-1]
            yield Answer(request.key, f"{self.name} " + " ".join(words))


KIND = Kind(
    load=Backwards, identity=lambda s: {"model": s.model}, threads=True
)
'''

ENCODER = '''
"""Colours of an image and letters of a text, with bytes between the workers and the model."""

import numpy as np

from pipeline.models.encoders.base import Encoder, EncoderKind


def thumbnail(image):
    return image.resize((3, 1)).tobytes()


class Letters(Encoder):
    def __init__(self, settings, runtime):
        assert settings.model == "nine"

    prepare = staticmethod(thumbnail)

    def images(self, prepared):
        assert all(type(one) is bytes for one in prepared)
        return np.array([list(one) for one in prepared], np.float32) + 1

    def texts(self, texts):
        return np.array([[text.count(c) + 1 for c in "abcdefghi"] for text in texts], np.float32)


KIND = EncoderKind(
    load=Letters, identity=lambda s: {"model": s.model}, width=lambda s: 9
)
'''


def test_a_captioner_an_llm_and_an_encoder_of_ones_own_are_one_file_each(
    tmp_path: Path, small_world: Path
) -> None:
    for name, part, code in (
        ("bright", "captioners", CAPTIONER),
        ("backwards", "llms", LLM),
        ("letters", "encoders", ENCODER),
    ):
        package(tmp_path, f"seize.{part}", f"their_{name}", name)
        (tmp_path / f"their_{name}.py").write_text(code)
    theirs = ["--captioner", "bright:how", "--llm", "backwards:sdrawkcab", "--clip", "letters:nine"]

    def seize(*arguments: str) -> str:
        done = subprocess.run(
            [
                sys.executable, "-m", "pipeline", *arguments, "--dataset", "circo", "--split",
                "val", "--data-root", str(small_world), "--config", "demo", *theirs, "--cache",
                str(tmp_path / "cache"), "--json",
            ],
            env={"PYTHONPATH": f"{tmp_path}:{PROJECT}", "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    planned = json.loads(seize("plan"))
    totals = {line["quantity"]: line["total"] for line in planned["lines"]}
    assert totals["bytes of image features"] == 4 * 9 * totals["images"]
    findings = json.loads(seize("doctor"))["findings"]
    assert not [f for f in findings if f["status"] == "problem"]
    assert ["letters" in f["found"] or "nine" in f["found"] for f in findings].count(True) == 1
    seize("run", "--submissions", str(tmp_path / "submissions"))
    cache = tmp_path / "cache" / "circo-val"
    (captions,) = (cache / "caption").glob("*.jsonl")
    assert captions.name.startswith("how-")
    assert '["how ' in captions.read_text()
    assert json.loads(captions.read_text().splitlines()[0])["header"]["kind"] == "bright"
    (edits,) = (cache / "edit").glob("*.jsonl")
    assert '"edited_caption": "sdrawkcab ' in edits.read_text()
    (features,) = (tmp_path / "cache").glob("*/images/*.safetensors")
    assert features.name.startswith("nine-")
    assert list((tmp_path / "submissions").glob("*.json"))

"""A captioner, an LLM and an encoder of somebody else's, each in one file of a package."""

import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import PROJECT
from tests.unit.test_plugins import package

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

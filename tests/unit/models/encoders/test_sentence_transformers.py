"""Embedders of sentence-transformers: the demo's joint embedder and CLIP, in its layout."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import ClipConfig, RuntimeConfig
from pipeline.errors import InstallationError, ModelError
from pipeline.models import encoders
from pipeline.models.encoders import _selfcheck
from tests.checkpoints import clip_of_transformers
from tests.conftest import PROJECT
from tests.embedder import EMBEDDER, in_process

RUNTIME = RuntimeConfig(device="cpu", embed_batch=2)
SAID = ["is blue instead of red", "has one more circle", "is on a dark background"]


def test_a_batch_gives_what_one_by_one_gives() -> None:
    """Pairs of different lengths are padded; padding must not enter the last token's vector."""
    encoder = in_process()
    pictures = [encoder.prepare(p) for p in (*_selfcheck.pictures(), _selfcheck.pictures()[0])]
    together = encoder.pairs(pictures, SAID, "Find the image.")
    pairs = zip(pictures, SAID, strict=True)
    alone = [encoder.pairs([picture], [text], "Find the image.") for picture, text in pairs]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def test_the_instruction_counts() -> None:
    encoder = in_process()
    picture = [encoder.prepare(_selfcheck.pictures()[0])]
    one, other = (encoder.pairs(picture, SAID[:1], told) for told in ("Find it.", "A circle."))
    assert np.abs(one - other).max() > 1e-3


def test_a_kind_may_be_spelt_as_its_package_is() -> None:
    for name in ("sentence-transformers", "sentence_transformers"):
        choice = encoders.ROLE.choose(ClipConfig(model=f"{name}:{EMBEDDER}"))
        assert (choice.kind_name, choice.name) == ("sentence_transformers", EMBEDDER)


def test_a_clip_of_the_library_embeds_images_and_texts_but_no_pairs(tmp_path: Path) -> None:
    folder = clip_of_transformers(tmp_path / "clip")
    settings = ClipConfig(model=f"sentence-transformers:{folder}")
    encoder: Any = encoders.load(settings, RUNTIME)
    plain = encoders.ROLE.kind("transformers").load(ClipConfig(model=str(folder)), RUNTIME)
    np.testing.assert_allclose(encoder.texts(SAID), plain.texts(SAID), atol=1e-4)
    with pytest.raises(ModelError, match=r"embeds no image together with a text.*--method sum"):
        encoder.check_pairs()


def test_a_model_of_texts_is_refused() -> None:
    llm = PROJECT / "data" / "models" / "llm"
    with pytest.raises(ModelError, match="embeds no images"):
        encoders.load(ClipConfig(model=f"sentence-transformers:{llm}"), RUNTIME)


def test_code_that_a_checkpoint_brings_never_runs(tmp_path: Path) -> None:
    copy = shutil.copytree(EMBEDDER, tmp_path / "model")
    (copy / "custom.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    modules = json.loads((copy / "modules.json").read_text())
    modules[2]["type"] = "custom.Normalize"
    (copy / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match="cannot be loaded"):
        encoders.load(ClipConfig(model=f"sentence-transformers:{copy}"), RUNTIME)
    assert not (tmp_path / "ran").exists()


def test_without_the_package_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    monkeypatch.delitem(
        sys.modules, "pipeline.models.encoders._sentence_transformers", raising=False
    )
    with pytest.raises(InstallationError, match="pip install 'sentence-transformers"):
        encoders.ROLE.kind("sentence_transformers").load(ClipConfig(model=EMBEDDER), RUNTIME)


def test_wrong_input_is_refused_without_the_library(tmp_path: Path) -> None:
    code = (
        "import sys; from pipeline.__main__ import main\n"
        "sys.argv = ['seize', 'embed', '--config', 'demo', '--dataset', 'circo', '--split', 'val',"
        f"'--data-root', {str(tmp_path)!r}, '--clip', 'sentence-transformers:nowhere/at/all']\n"
        "try:\n    main()\nexcept SystemExit as end:\n"
        "    print(end.code, 'torch' in sys.modules, 'sentence_transformers' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.stdout.split()[1:] == ["False", "False"], done.stderr

"""A result in a notebook: pictures, scores and paths, and no markup of others."""

import shutil
from pathlib import Path

from pipeline import config
from pipeline.own import notebook
from pipeline.own.gallery import Gallery

NASTY = "<b onclick=alert(1)>.jpg"


def test_a_result_shows_its_pictures_and_escapes_every_text(
    small_world: Path, tmp_path: Path
) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    for place, picture in enumerate(sorted((small_world / "CIRCO").rglob("*.jpg"))[:15]):
        shutil.copy(picture, root / (NASTY if not place else picture.name))
    gallery = Gallery(root, config.load("demo", {"runtime.workers": 0}), tmp_path / "cache")
    gallery.index()
    result = gallery.query(None, "a <i>red</i> star")
    shown = result._repr_html_()
    assert shown.count('<img src="data:image/') == notebook.SHOWN
    assert "and 3 more" in shown
    assert "<i>" not in shown
    assert "<b onclick" not in shown
    assert f"{result.images[0].score:.4f}" in shown
    missing = root / result.images[1].path
    missing.unlink()
    assert "no longer there" in result._repr_html_()

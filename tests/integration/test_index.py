"""The search stage with an index in place of the scan, and the scan's memory."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.retrieval import bounded, products, ranking
from pipeline.retrieval.indexes import certified
from pipeline.retrieval.scoring import Ends
from pipeline.run import Run
from pipeline.stages import search
from pipeline.stages.everything import run_stages
from tests.conftest import PROJECT

NAMES = {kind.name for kind in products.PRODUCTS}


def with_index(run: Run, kind: str, **fields: object) -> Run:
    index = run.config.search.index.model_copy(update={"kind": kind, **fields})
    settings = run.config.search.model_copy(update={"index": index})
    return replace(run, config=run.config.model_copy(update={"search": settings}))


def images(run: Run) -> list[tuple[str, ...]]:
    return [ranking.images for ranking in search.read(run)]


def test_search_by_an_index_gives_the_scans_rankings_gallery_by_gallery(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certified, "SHARE", 4)
    run = make_run("fashioniq", search__top_k=5)
    run_stages(run)
    scan = search.search(run)[0]
    assert scan.visited is None
    expected = {}
    for method in ("seize", "ldre"):
        search.search(run.with_method(method))
        expected[method] = images(run.with_method(method))
    for kind in ("flat", "clusters", "faiss-hnsw", "faiss-ivf"):
        for method in ("seize", "ldre"):
            indexed = with_index(run.with_method(method), kind)
            (report,) = search.search(indexed)
            assert report.visited is not None
            assert 5 <= report.visited < 60
            assert images(indexed) == expected[method]
        # An approximate index may change the ranking, so it has a file of its own.
        assert (search.ranking_file(indexed).file == search.ranking_file(run).file) is False
        same = search.ranking_file(with_index(run, kind)).file == search.ranking_file(run).file
        assert same is (kind in ("flat", "clusters"))
        built = list(run.cache.rglob(f"{kind}-*"))
        assert len(built) == (0 if kind == "flat" else 3)
    with pytest.raises(ConfigError, match="seize-rank"):
        search.search(with_index(run.with_method("seize-rank"), "flat"))
    with pytest.raises(ConfigError, match="Did you mean 'faiss-hnsw'"):
        search.search(with_index(run, "hnsw"))


def test_a_scan_by_quick_products_ranks_as_the_plain_one_and_a_profile_names_the_first(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(search__top_k=1)
    run_stages(run)
    (plain,), expected = search.search(run), images(run)
    assert plain.steps == {}
    search.ranking_file(run).file.unlink()
    monkeypatch.setattr(bounded, "MULTIPLY_ADDS", 0)
    monkeypatch.setattr(bounded, "QUERIES", 1)
    for module in (bounded, ranking):
        monkeypatch.setattr(module, "FIRST", len(run.dataset.images) // 8)
    monkeypatch.setattr(bounded, "pays", partial(pays_for_one, bounded.pays))
    (quick,) = search.search(run)
    assert images(run) == expected
    assert [step.removesuffix(" first") in NAMES for step in quick.steps] == [True]


def pays_for_one(
    pays: Callable[..., bool], ends: Ends, images: int, k: int, excluded: object
) -> bool:
    """Whether a search pays that takes a part in sixteen of its first block."""
    return pays(ends, images, 0, None)


def test_another_breadth_makes_another_ranking_of_the_same_index(
    make_run: Callable[..., Run],
) -> None:
    run = with_index(make_run(search__top_k=5), "faiss-hnsw")
    run_stages(run)
    wider = with_index(run, "faiss-hnsw", breadth=300)
    search.search(wider)
    assert search.ranking_file(wider).file != search.ranking_file(run).file
    assert len(list(run.cache.rglob("faiss-hnsw-*.faiss"))) == 1
    linked = with_index(run, "faiss-hnsw", links=8)
    search.search(linked)
    assert len(list(run.cache.rglob("faiss-hnsw-*.faiss"))) == 2


LIMITED = """
import json, resource, sys
import numpy as np, torch
from pathlib import Path
from pipeline.retrieval.files import Features
from pipeline.retrieval.ranking import top_images
from pipeline.retrieval.scoring import Ends

def used():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData"))

torch.set_num_threads(1)
rows = torch.eye(512)[:8]
ends = Ends(rows, rows * 0.5)
gallery = Features(Path(sys.argv[1]))
top_images(ends, Features(Path(sys.argv[2])), 3)  # what libraries allocate once
limit = used() + (256 << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
_, found = top_images(ends, gallery, 3)
try:
    gallery.rows(0, gallery.shape[0])
    whole = True
except MemoryError:
    whole = False
print(json.dumps({"rows": found[:, 0].tolist(), "whole": whole}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux how much memory is in use")
def test_gallery_larger_than_the_memory_is_searched(tmp_path: Path) -> None:
    """A gallery of 600 MB on disk with at most 256 MB of memory for all that the search needs."""
    images, width = 600_000, 512
    files = []
    for name, count in (("large", images), ("small", 10_000)):
        file = tmp_path / f"{name}.safetensors"
        shape, end = [count, width], count * width * 2
        header = {"features": {"dtype": "F16", "shape": shape, "data_offsets": [0, end]}}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with file.open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            stream.truncate(8 + len(text) + end)  # zeros that take no room on disk
            for query in range(8):
                row = np.zeros(width, dtype=np.float16)
                row[query] = 1
                stream.seek(8 + len(text) + (count - 1000 * query - 1) * width * 2)
                stream.write(row.tobytes())
        files.append(str(file))
    command = [sys.executable, "-c", LIMITED, *files]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["rows"] == [images - 1000 * query - 1 for query in range(8)]
    assert not found["whole"]  # the limit is a limit

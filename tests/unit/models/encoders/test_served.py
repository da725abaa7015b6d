"""A joint embedder behind a server, against the recorded form of requests."""

import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import config
from pipeline.config import ClipConfig, RuntimeConfig
from pipeline.errors import ConfigError, ModelError
from pipeline.images.files import data_url, open_image
from pipeline.models import encoders
from pipeline.models.encoders import _selfcheck
from pipeline.models.encoders.served import ServedEncoder, conversation
from pipeline.run import Run
from pipeline.stages import checks, embed, search
from pipeline.stages.embeddings import image_file
from pipeline.stages.everything import run_stages
from pipeline.store.features import FeatureFile
from tests.conftest import PROJECT
from tests.embedder import Embedder, Vector, in_process, name_of
from tests.embedder import embed as vector_of
from tests.holding import SEIZE, held_after, kill_once
from tests.stub import Fault, Running

MakeRun = Callable[..., Run]
Start = Callable[[Embedder], str]
CHANGED = "Find the image that this image becomes by the change."


@pytest.fixture
def start() -> Iterator[Start]:
    """A function that serves an embedder and returns its URL."""
    started: list[Running] = []

    def begin(stub: Embedder) -> str:
        started.append(Running(stub))
        return started[-1].url

    yield begin
    encoders.ROLE.unload()  # another server may get the same address
    for server in started:
        server.stop()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back off by milliseconds."""
    monkeypatch.setattr("pipeline.models.serving.chat._backoff", lambda times: 0.01)


def served(url: str, **settings: Any) -> ServedEncoder:
    runtime = RuntimeConfig(concurrency=8, retries=2)
    return ServedEncoder(ClipConfig(model="echo", url=url, **settings), runtime)


def _sent(pictures: Iterable[Image.Image]) -> list[str]:
    return [data_url(picture, ClipConfig(model="echo").longest_side) for picture in pictures]


def joint_run(make_run: MakeRun, url: str, method: str, **overrides: Any) -> Run:
    return make_run(
        search__method=method,
        clip__model="served:echo",
        clip__url=url,
        runtime__concurrency=8,
        runtime__retries=2,
        **overrides,
    )


def test_served_vectors_are_those_of_the_model_in_process(make_run: MakeRun, start: Start) -> None:
    run = make_run()
    pictures = [open_image(run.dataset.images[q.reference]) for q in run.queries[:5]]
    said = [query.relative_captions[0] for query in run.queries[:5]]
    here, there = in_process(), served(start(Embedder()))
    own, sent = ([one.prepare(p) for p in pictures] for one in (here, there))
    np.testing.assert_allclose(there.images(sent), here.images(own), atol=1e-5)
    np.testing.assert_allclose(there.texts(said), here.texts(said), atol=1e-5)
    np.testing.assert_allclose(
        there.pairs(sent, said, CHANGED), here.pairs(own, said, CHANGED), atol=1e-5
    )
    there.check_pairs()


def test_instructions_are_sent_and_identify_the_features(start: Start) -> None:
    stub = Embedder()
    url = start(stub)
    other = served(url, image_instruction="Look.", text_instruction="Read.")
    stub.seen.clear()
    other.images([other.prepare(_selfcheck.pictures()[0])])
    other.texts(["a red circle"])
    told = [asked["messages"][0]["content"][0]["text"] for asked in stub.seen]
    assert told == ["Look.", "Read."]
    plain = ClipConfig(model="served:echo", url=url)
    same = ClipConfig(model="served:echo", url="http://elsewhere/v1", precision="float16")
    apart = plain.model_copy(update={"image_instruction": "Look."})
    identity = [encoders.ROLE.choose(one).identity for one in (plain, same, apart)]
    assert identity[0] == identity[1]
    assert identity[0] != identity[2]


def constant(instruction: str, image: str | None, text: str) -> Vector:
    return np.ones(4, np.float32)


def without_numbers(instruction: str, image: str | None, text: str) -> Vector:
    return np.full(4, np.nan, np.float32)


def zeros(instruction: str, image: str | None, text: str) -> Vector:
    return np.zeros(4, np.float32)


def contrary(instruction: str, image: str | None, text: str) -> Vector:
    return vector_of(instruction, image, text) * (1 if image else -1)


def blind(instruction: str, image: str | None, text: str) -> Vector:
    return vector_of(instruction, None if text else image, text)


def deaf(instruction: str, image: str | None, text: str) -> Vector:
    return vector_of(instruction if image is None else "", image, "" if image else text)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (constant, "same vector of two different images"),
        (without_numbers, "NaN or infinity"),
        (zeros, "nothing but zeros"),
        (contrary, "does not know two pictures by their own texts"),
    ],
)
def test_an_embedder_that_is_served_wrongly_is_refused_with_the_reason(
    wrong: Any, said: str, start: Start
) -> None:
    with pytest.raises(ModelError, match=f"{said}.*--runner pooling"):
        served(start(Embedder(wrong=wrong)))


@pytest.mark.parametrize(
    ("wrong", "said"), [(blind, "as the text alone"), (deaf, "as the image alone")]
)
def test_one_that_sees_half_of_a_pair_is_refused_before_the_gallery_is_sent(
    wrong: Any, said: str, make_run: MakeRun, start: Start
) -> None:
    stub = Embedder(wrong=wrong)
    run = joint_run(make_run, start(stub), "joint")
    with pytest.raises(ModelError, match=f"{said}.*--method sum"):
        embed.embed(run)
    assert len(stub.images) <= 2  # those of the check
    embed.embed(run.with_method("sum"))
    assert len(stub.images) > 100


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [(constant, "same vector"), (deaf, "as the image alone"), (None, "127.0.0.1:9")],
)
def test_a_run_is_refused_before_anything_is_captioned(
    wrong: Any, said: str, named: bool, make_run: MakeRun, start: Start
) -> None:
    url = start(Embedder(wrong=wrong)) if wrong else "http://127.0.0.1:9/v1"  # none is there
    if named:
        far = {"encoders__far__model": "served:echo", "encoders__far__url": url}
        run = make_run(search__method="pool:seize,joint@far", runtime__retries=0, **far)
    else:
        run = joint_run(make_run, url, "seize+joint")
    with pytest.raises(ModelError, match=said):
        run_stages(run)
    assert not list(run.cache.rglob("*.*"))


@pytest.mark.parametrize("status", [500, 503])
def test_a_server_that_fails_from_the_start_is_refused_soon_and_one_that_failed_later_waited_for(
    status: int, start: Start
) -> None:
    down = Embedder(plan=lambda text, tries: Fault(status))
    patient = RuntimeConfig(concurrency=8, retries=6)
    with pytest.raises(ModelError, match=f"HTTP {status}.*repeat the same command"):
        ServedEncoder(ClipConfig(model="echo", url=start(down)), patient)
    assert (
        max(down.tries.values()) <= 5
    )  # one that an older one seems to be in the way of is excused
    failing = Embedder(plan=lambda text, tries: Fault(status) if tries < 5 and began else None)
    began = False
    encoder = ServedEncoder(ClipConfig(model="echo", url=start(failing)), patient)
    began = True
    assert encoder.texts(["a red circle"]).shape == (1, 128)


@pytest.mark.parametrize("status", [404, 405, 501])
def test_an_address_where_something_else_is_served_is_asked_once(status: int, start: Start) -> None:
    page = Fault(status, body="<!DOCTYPE HTML><title>Not here</title>")
    other = Embedder(plan=lambda text, tries: page)
    said = rf"/v1/embeddings: HTTP {status}: no message. Is the address right .*--clip-url"
    with pytest.raises(ModelError, match=said):
        served(start(other))
    assert max(other.tries.values()) == 1


def test_the_self_check_is_sent_once_and_not_where_all_is_there(
    make_run: MakeRun, start: Start
) -> None:
    stubs = [Embedder(), Embedder()]
    named = {f"encoders__{name}__model": "served:echo" for name in ("one", "two")}
    named |= {"encoders__two__text_instruction": "Read."}
    urls = [start(stub) for stub in stubs]
    named |= {f"encoders__{n}__url": url for n, url in zip(("one", "two"), urls, strict=True)}
    run = make_run(search__method="sum@one,joint@two", **named)
    for _ in range(2):
        checks.check(run, [embed.STAGE])
    embed.STAGE.run(run)
    shown = [name_of(conversation("", s, "")) for s in _sent(_selfcheck.pictures())]
    assert [[stub.images[name] for name in shown] for stub in stubs] == [[1, 1], [2, 1]]
    encoders.ROLE.unload()
    asked = [stub.asked for stub in stubs]
    checks.check(run, [embed.STAGE])
    embed.STAGE.run(run)
    assert [stub.asked for stub in stubs] == asked


def test_gallery_images_are_sent_once_whatever_the_number_of_methods(
    make_run: MakeRun, start: Start
) -> None:
    stub = Embedder()
    run = joint_run(make_run, start(stub), "joint")
    embed.STAGE.run(run)
    sent = Counter(stub.images)
    asked = stub.asked
    every = run.with_method("joint,sum,image,text,image+text")
    embed.STAGE.run(every)
    assert stub.asked - asked == len({query.relative_captions[0] for query in run.queries})
    assert stub.images == sent
    of_check = {name_of(conversation("", s, "")) for s in _sent(_selfcheck.pictures())}
    assert {count for name, count in sent.items() if name not in of_check} == {1}
    search.search(every)
    assert len(search.read(run.with_method("sum"))) == len(run.queries)


def test_an_image_that_the_server_refuses_is_named_and_tried_again(
    make_run: MakeRun, start: Start
) -> None:
    refused: set[str] = set()

    def plan(name: str, tries: int) -> Fault | None:
        if tries == 0 and len(name) == 12 and name[0] == "3":
            return Fault(500)  # well again at the second try
        if len(name) == 12 and name[0] == "7" and not healed:
            refused.add(name)
            return Fault(400, '{"error": {"message": "told to refuse"}}')
        return None

    healed: list[bool] = []
    stub = Embedder(plan=plan)
    run = joint_run(make_run, start(stub), "image")
    (report,) = embed.embed(run)
    assert refused
    assert set(report.failed.values()) == {"HTTP 400: told to refuse"}
    assert report.computed + report.copies + len(report.failed) == 150
    healed.append(True)
    (again,) = embed.embed(run)
    assert again.computed == len(report.failed)
    assert not again.failed
    assert FeatureFile(image_file(run)).names == list(run.dataset.images)


def test_a_text_that_the_server_refuses_ends_the_stage_with_the_reason(
    make_run: MakeRun, start: Start
) -> None:
    def plan(name: str, tries: int) -> Fault | None:
        said = name in relative
        return Fault(400, '{"error": {"message": "too long"}}') if said else None

    stub = Embedder(plan=plan)
    run = joint_run(make_run, start(stub), "text")
    relative = {query.relative_captions[0] for query in run.queries[:1]}
    with pytest.raises(ModelError, match="embeds a text not: HTTP 400: too long"):
        embed.embed(run)


def test_a_run_that_is_killed_goes_on_where_it_was(
    make_run: MakeRun, start: Start, tmp_path: Path
) -> None:
    stub = Embedder()
    run = joint_run(make_run, start(stub), "joint")
    options = [
        *("embed", *run.command.split(), "--method", "joint"),
        *("--cache", str(run.cache), "--submissions", str(run.submissions)),
        *("--clip", "served:echo", "--clip-url", str(run.config.clip.url), "--concurrency", "2"),
        *("--set", "runtime.shard=10", "--set", "runtime.embed_batch=10", "--workers", "0"),
    ]  # fmt: skip
    shards = image_file(run).with_name(image_file(run).name + ".parts")
    held = [*held_after("shard", 3), *options]
    process = subprocess.Popen(held, cwd=PROJECT, stderr=subprocess.DEVNULL)
    kill_once(lambda: len(list(shards.glob("*.safetensors"))) == 3, process)
    kept, before, command = 30, sum(stub.images.values()), [*SEIZE, *options]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sum(stub.images.values()) - before <= 150 - kept + 4
    assert len(FeatureFile(image_file(run)).names) == 150
    asked = stub.asked
    again = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert stub.asked == asked


def test_joint_needs_an_encoder_that_embeds_pairs(make_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match="needs an encoder that embeds an image with a text"):
        search.search(make_run(search__method="joint"))
    other = {"encoders__two__model": "local-dir:data/models/clip"}
    run = make_run(search__method="joint@two", **other)
    with pytest.raises(ConfigError, match=r"of the kind open_clip\. Kinds that do:.* served"):
        embed.embed(run)


def test_a_file_of_others_does_not_send_the_key_to_its_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    named = "encoders: {e: {model: x, url: http://far.example/v1}}"
    for place in ("clip: {url: http://far.example/v1}", named):
        (tmp_path / "settings.yaml").write_text(f"preset: demo\n{place}\n")
        with pytest.raises(ConfigError, match=r"url is not on this machine"):
            config.load(str(tmp_path / "settings.yaml"))


def test_the_address_of_a_server_is_shown_without_its_password(start: Start) -> None:
    url = start(Embedder(wrong=constant))
    with pytest.raises(ModelError) as told:
        served(url.replace("http://", "http://me:hidden@"))
    assert "hidden" not in str(told.value)

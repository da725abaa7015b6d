"""The client of an LLM server, against a small HTTP server that misbehaves as told."""

import email.utils
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.config import CaptionerConfig, LlmConfig, RuntimeConfig
from pipeline.errors import InputError, ModelError
from pipeline.models.answers import CUT_OFF, read
from pipeline.models.captioners import Failure
from pipeline.models.captioners.served import ServedCaptioner
from pipeline.models.llms import Answer, Request
from pipeline.models.llms.served import ServedLlm
from pipeline.models.serving.chat import BREAK_AFTER
from pipeline.models.serving.pace import START
from pipeline.run import Run
from pipeline.stages import caption
from pipeline.store.jsonl import RecordFile
from tests.stub import Fault, Running, Stub, Thinking

Start = Callable[..., Running]


@pytest.fixture
def start() -> Iterator[Start]:
    """A function that starts a stub server."""
    started = []

    def begin(**options: Any) -> Running:
        started.append(Running(Stub(**options)))
        return started[-1]

    yield begin
    for server in started:
        server.stop()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back off by milliseconds."""
    monkeypatch.setattr("pipeline.models.serving.chat._backoff", lambda times: 0.01 * times)


def llm(server: Running, model: str = "echo", **runtime: Any) -> ServedLlm:
    return ServedLlm(LlmConfig(model=model, url=server.url), RuntimeConfig(**runtime))


def requests(count: int) -> list[Request]:
    return [
        Request(i, [{"role": "user", "content": f"edit {i}"}], 16, ("\n",), 0.0, 7)
        for i in range(count)
    ]


def texts(answers: Iterator[Answer]) -> dict[int, str | None]:
    return {answer.key: answer.text for answer in answers}


ALL = {i: f"EDIT {i}" for i in range(20)}


def test_every_request_is_answered_once_with_bounded_concurrency(start: Start) -> None:
    server = start(delay=0.02, crowd=4)
    assert texts(llm(server, concurrency=4).answer(requests(20))) == ALL
    assert len(server.stub.seen) == 20
    assert server.stub.most == 4
    asked = server.stub.seen[0]
    settings = {key: asked[key] for key in ("model", "max_tokens", "temperature", "seed", "stop")}
    assert settings == {
        "model": "echo", "max_tokens": 16, "temperature": 0.0, "seed": 7, "stop": ["\n"],
    }  # fmt: skip


def test_requests_are_read_as_they_are_needed(start: Start) -> None:
    read = []

    def lazily() -> Iterator[Request]:
        for request in requests(200):
            read.append(request.key)
            yield request

    answers = llm(start(), concurrency=3).answer(lazily())
    next(answers)
    assert len(read) < 100
    answers.close()


FAULTS = {
    "busy": Fault(429),
    "busy, wait": Fault(429, retry_after="0"),
    "error": Fault(500),
    "unavailable": Fault(503, retry_after="0.01"),
    "reset": Fault(reset=True),
    "hang": Fault(hang=True),
    "no json": Fault(body="<html>proxy</html>"),
    "cut body": Fault(cut=True),
    "cut json": Fault(body='{"choices": [{"mess'),
    "no choice": Fault(body='{"choices": []}'),
    "wrong shape": Fault(body='{"choices": [{"message": {"content": 3}}]}'),
    "list": Fault(body="[]"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_passing_fault_costs_no_answer(start: Start, fault: Fault) -> None:
    server = start(plan=lambda text, tries: fault if tries < 2 and text.endswith("3") else None)
    client = llm(server, concurrency=8, **({"timeout": 1.0} if fault.hang else {}))
    assert texts(client.answer(requests(20))) == ALL
    if fault.hang:  # a machine that pauses is late with other answers, too
        assert server.stub.tries["edit 3"] >= 3
    else:
        assert server.stub.tries["edit 3"] == 3
        assert server.stub.tries["edit 4"] == 1


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_lasting_fault_of_one_request_is_recorded_and_the_others_go_on(
    start: Start, fault: Fault
) -> None:
    server = start(plan=lambda text, tries: fault if text == "edit 3" else None)
    # What is refused as busy is asked until time is over; only what hangs needs another limit.
    limits = {"timeout": 1.0} if fault.hang else {"give_up_after": 2.0}
    client = llm(server, concurrency=2, retries=2, **limits)
    answers = {answer.key: answer for answer in client.answer(requests(20))}
    assert answers[3].text is None
    assert "tries" in (answers[3].reason or "")
    assert {key: answer.text for key, answer in answers.items() if key != 3} == {
        key: text for key, text in ALL.items() if key != 3
    }


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_respected_as_seconds_or_date(start: Start, as_date: bool) -> None:
    asked: list[float] = []

    def plan(text: str, tries: int) -> Fault | None:
        asked.append(time.time())
        if tries:
            return None
        date = email.utils.formatdate(asked[0] + 2, usegmt=True)  # in whole seconds
        return Fault(429, retry_after=date if as_date else "1")

    assert texts(llm(start(plan=plan)).answer(requests(1))) == {0: "EDIT 0"}
    first, second = asked
    assert second >= (int(first + 2) if as_date else first + 1) - 0.01


def test_busy_is_tried_until_the_total_limit_however_often(start: Start) -> None:
    server = start(plan=lambda text, tries: Fault(429) if tries < 9 else None)
    assert texts(llm(server, retries=1).answer(requests(1))) == {0: "EDIT 0"}
    server = start(plan=lambda text, tries: Fault(429))
    (answer,) = llm(server, retries=1, give_up_after=0.3).answer(requests(1))
    assert "HTTP 429" in (answer.reason or "")


def test_a_too_long_context_is_that_requests_fault_and_says_the_lengths(start: Start) -> None:
    said = "This model's maximum context length is 256 tokens. However, your request has 300."
    fault = Fault(400, body=f'{{"error": {{"message": "{said}"}}}}')
    server = start(plan=lambda text, tries: fault if text == "edit 1" else None)
    answers = {answer.key: answer for answer in llm(server).answer(requests(3))}
    assert answers[1].reason == f"HTTP 400: {said}"
    assert server.stub.tries["edit 1"] == 1
    assert answers[2].text == "EDIT 2"


def test_an_answer_that_no_file_could_hold_is_mended(start: Start, tmp_path: Path) -> None:
    server = start(answer=lambda text: f"{text} \ud83d dog")
    (answer,) = llm(server).answer(requests(1))
    assert answer.text == "edit 0 ? dog"
    with RecordFile(tmp_path / "edits.jsonl", {}) as records:
        records.append({"edited_caption": answer.text})


def test_a_cut_off_answer_is_told(start: Start) -> None:
    (answer,) = llm(start(finish_reason="length")).answer(requests(1))
    assert answer.truncated


def test_a_wrong_model_is_fatal_at_once_and_lists_the_served_ones(start: Start) -> None:
    server = start()
    with pytest.raises(ModelError, match="It serves: echo"):
        list(llm(server, model="other").answer(requests(1)))
    assert server.stub.seen == []


def test_the_key_comes_from_the_environment_and_is_never_shown(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret")
    echo = Fault(400, body='{"error": {"message": "bad request by sk-secret"}}')
    server = start(key="sk-secret", plan=lambda text, tries: echo if text == "edit 1" else None)
    answers = {a.key: a for a in llm(server, api_key_variable="MY_KEY").answer(requests(2))}
    assert answers[0].text == "EDIT 0"
    assert "sk-secret" not in (answers[1].reason or "")
    assert all("sk-secret" not in str(asked) for asked in server.stub.seen)
    monkeypatch.setenv("MY_KEY", "sk-wrong")
    with pytest.raises(ModelError, match="set MY_KEY") as error:
        list(llm(server, api_key_variable="MY_KEY").answer(requests(1)))
    assert "sk-wrong" not in str(error.value)


def test_no_server_is_one_error_that_says_how_to_start_one() -> None:
    config = LlmConfig(model="echo", url="http://127.0.0.1:9/v1")
    with pytest.raises(ModelError, match=r"There is no server at .*seize serve-llm echo"):
        list(ServedLlm(config, RuntimeConfig()).answer(requests(1)))


def test_a_server_that_goes_away_ends_the_run_and_keeps_what_came(start: Start) -> None:
    server = start(delay=0.01)
    answers = llm(server, retries=2, concurrency=2).answer(requests(500))
    assert next(answers).text is not None
    server.stop()
    with pytest.raises(ModelError, match="What was answered is kept"):
        list(answers)


@pytest.mark.parametrize("concurrency", [None, 64])
def test_a_server_that_never_answered_is_waited_for_once(
    start: Start, concurrency: int | None
) -> None:
    server = start(plan=lambda text, tries: Fault(hang=True))
    answers = llm(server, timeout=0.5, concurrency=concurrency).answer(requests(200))
    with pytest.raises(ModelError, match=r"answered no request within 0\.5 s.*runtime\.timeout="):
        list(answers)
    assert len(server.stub.seen) <= START
    assert set(server.stub.tries.values()) <= {1}


def test_a_server_that_loads_its_model_when_asked_is_waited_for(start: Start) -> None:
    server = start(plan=lambda text, tries: Fault(slow=1.0) if tries == 0 else Fault(500))
    assert len(texts(llm(server, timeout=30).answer(requests(8)))) == 8
    assert set(server.stub.tries.values()) == {1}


def test_a_server_that_hangs_after_an_answer_ends_the_run(start: Start) -> None:
    server = start(plan=lambda text, tries: None if text == "edit 0" else Fault(hang=True))
    client = llm(server, timeout=2.0, retries=0, give_up_after=1.0, concurrency=8)
    assert texts(client.answer(requests(1))) == {0: "EDIT 0"}
    with pytest.raises(ModelError, match="requests in a row, the last: no answer within 2 s"):
        list(client.answer(requests(200)[1:]))


def test_a_server_that_fails_at_everything_is_left_alone_soon(start: Start) -> None:
    server = start(plan=lambda text, tries: Fault(500))
    with pytest.raises(ModelError, match="HTTP 500: told to fail"):
        list(llm(server, retries=1, concurrency=4).answer(requests(500)))
    assert len(server.stub.tries) <= BREAK_AFTER + 4


@pytest.mark.parametrize(
    ("blocks", "expected"), [(10_000_000, 256), (1000, 1000 * 16 // (43 // 3 + 16)), (1, 8)]
)
def test_concurrency_is_what_fits_a_vllms_cache(start: Start, blocks: int, expected: int) -> None:
    labels = f'block_size="16",num_gpu_blocks="{blocks}",other="None"'
    count = min(expected, 256)
    metrics = f"# x\nvllm:cache_config_info{{{labels}}} 1.0\n"
    server = start(metrics=metrics)
    client = llm(server)
    list(client.answer(requests(1)))  # until a first answer it is sent fewer
    # The next is answered a second after so many were asked, in which no further ones may be.
    server.stub.crowd, server.stub.delay = count - count // 10, 1.0
    list(client.answer(requests(count * 3 // 2)))
    assert server.stub.most == pytest.approx(count, abs=count // 10)


def test_a_served_vision_model_captions_each_image_in_one_request(start: Start) -> None:
    server = start(model="qwen-vl")
    config = CaptionerConfig(model="qwen-vl", url=server.url, samples=4)
    images = [Image.new("RGB", (2000, 100), colour) for colour in ("red", "blue")]
    captions = ServedCaptioner(config, RuntimeConfig()).caption(["a", "b"], images)
    for texts in captions:
        assert isinstance(texts, list)
        assert texts[1:] == ["1", "2", "3"]
        assert texts[0].startswith("DESCRIBE THIS IMAGE")
    assert len(server.stub.seen) == 2
    asked = {request["seed"]: request for request in server.stub.seen}
    assert len(asked) == 2  # a seed an image
    for request in asked.values():
        assert request["n"] == 4
        assert (request["top_p"], request["temperature"]) == (0.9, 1.0)
        url = request["messages"][0]["content"][0]["image_url"]["url"]
        assert url.startswith("data:image/jpeg;base64,")
        assert len(url) < 100_000
    again = Running(Stub(model="qwen-vl"))
    config = config.model_copy(update={"url": again.url})
    ServedCaptioner(config, RuntimeConfig()).caption(["b"], images[1:])
    assert again.stub.seen[0]["seed"] in asked  # the same whatever else is captioned
    again.stop()


def test_an_image_that_the_vision_model_refuses_says_why(start: Start) -> None:
    server = start(plan=lambda text, tries: Fault(400) if tries == 0 else None)
    config = CaptionerConfig(model="echo", url=server.url, samples=1)
    captioner = ServedCaptioner(config, RuntimeConfig(concurrency=1))
    captions = captioner.caption(["a", "b"], [Image.new("RGB", (9, 9))] * 2)
    assert captions[0] == Failure("HTTP 400: told to fail")
    assert isinstance(captions[1], list)


def asking(server: Running, **settings: Any) -> ServedLlm:
    return ServedLlm(
        LlmConfig(model="echo", url=server.url, **settings), RuntimeConfig(concurrency=4)
    )


THINKERS = {
    "marks": Thinking(),
    "closing mark": Thinking(shown="closing mark"),
    "channels": Thinking(shown="channels"),
    "field": Thinking(shown="field"),
    "another field": Thinking(shown="field", field="reasoning"),
    "parts": Thinking(shown="parts"),
    "switched off": Thinking(obeys=True),
    "misplaced": Thinking(shown="field", misplaced=True),
}


@pytest.mark.parametrize("thinking", THINKERS.values(), ids=THINKERS)
def test_models_that_think_answer_every_request(start: Start, thinking: Thinking) -> None:
    server = start(thinking=thinking)
    llm = asking(server)
    found = {answer.key: read(answer.text or "") for answer in llm.answer(requests(20))}
    assert {key: reading[:2] for key, reading in found.items()} == {
        key: (text, None) for key, text in ALL.items()
    }
    asked = len(server.stub.seen)
    assert asked == 20 if thinking.obeys else asked < 2 * 20  # it is remembered
    assert server.stub.seen[0]["chat_template_kwargs"]["enable_thinking"] is False
    again = asked
    list(llm.answer(requests(3)))
    assert len(server.stub.seen) == again + 3
    assert len(llm.notes) == (0 if thinking.obeys else 1)


def test_a_thought_longer_than_its_room_is_told(start: Start) -> None:
    server = start(thinking=Thinking(tokens=3000))
    for answer in asking(server).answer(requests(3)):
        assert answer.truncated
        assert read(answer.text or "").reason == CUT_OFF
    assert max(asked["max_tokens"] for asked in server.stub.seen) == 16 + 2048
    roomy = asking(server, thinking_tokens=4000)
    assert all(read(a.text or "").text.startswith("EDIT") for a in roomy.answer(requests(3)))


def test_thinking_can_be_wanted(start: Start) -> None:
    server = start(thinking=Thinking(obeys=True))
    llm = asking(server, thinking=True)
    assert all("</think>" in (answer.text or "") for answer in llm.answer(requests(5)))
    assert len(server.stub.seen) == 5  # with room from the first request on
    assert server.stub.seen[0]["chat_template_kwargs"]["enable_thinking"] is True
    assert llm.notes == []


@pytest.mark.parametrize("status", [400, 422, 500])
def test_a_refused_system_role_is_merged_into_the_users_turn(start: Start, status: int) -> None:
    server = start(refuses_system="System role not supported", refusal=status)
    llm = asking(server)
    system = {"role": "system", "content": "Answer in capitals."}
    asked = [replace(r, messages=[system, *r.messages], stop=()) for r in requests(20)]
    expected = {key: f"ANSWER IN CAPITALS.\n\n{text}" for key, text in ALL.items()}
    assert texts(llm.answer(asked)) == expected
    refused = sum(any(m["role"] == "system" for m in one["messages"]) for one in server.stub.seen)
    assert 1 <= refused <= 4  # those in flight at first
    assert len(llm.notes) == 1


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("name", ["seed", "stop", "response_format", "chat_template_kwargs"])
def test_a_refused_parameter_is_left_out_after_the_first_refusal(
    start: Start, name: str, status: int
) -> None:
    server = start(refuses={name: f"Unsupported parameter: {name}"}, refusal=status)
    llm = asking(server)
    asked = [replace(r, schema={"type": "object"}) for r in requests(20)]
    assert texts(llm.answer(asked)) == ALL
    assert 1 <= sum(name in one for one in server.stub.seen) <= 4
    assert name in llm.notes[0]
    assert len(llm.notes) == 1


def test_answers_end_at_a_stop_that_the_server_does_not_take(start: Start) -> None:
    server = start(refuses={"stop": "stop is not supported"}, answer=lambda text: f"{text}\nmore")
    assert texts(asking(server).answer(requests(2))) == {0: "edit 0", 1: "edit 1"}


@pytest.mark.parametrize(
    "fault",
    [
        Fault(402, body='{"error": {"message": "Payment required"}}'),
        Fault(429, body='{"error": {"message": "no", "code": "insufficient_quota"}}'),
        Fault(429, body='{"error": {"message": "You exceeded your current quota"}}'),
        Fault(403, body='{"error": {"message": "account balance is insufficient"}}'),
    ],
)
def test_an_account_without_money_ends_the_run_at_once_in_the_servers_words(
    start: Start, fault: Fault
) -> None:
    server = start(plan=lambda text, tries: fault)
    said = json.loads(fault.body)["error"]["message"]
    with pytest.raises(ModelError, match=f"answers no more: HTTP {fault.status}: {said}"):
        list(asking(server).answer(requests(50)))
    assert max(server.stub.tries.values()) == 1


def test_a_served_captioner_gives_no_thoughts(start: Start) -> None:
    for thinking in (Thinking(), Thinking(shown="field"), Thinking(obeys=True)):
        server = start(thinking=thinking)
        config = CaptionerConfig(model="echo", url=server.url, samples=3)
        captioner = ServedCaptioner(config, RuntimeConfig())
        (captions,) = captioner.caption(["a"], [Image.new("RGB", (9, 9))])
        assert isinstance(captions, list)
        assert captions[0].startswith("DESCRIBE THIS IMAGE")
        assert captions[1:] == ["1", "2"]


def test_the_caption_stage_keeps_all_requests_in_flight_in_one_session(
    start: Start, make_run: Callable[..., Run]
) -> None:
    server = start(delay=0.2, crowd=4)
    served = {"captioner__model": "served:echo", "captioner__url": server.url}
    limits = {"captioner__samples": 2, "runtime__caption_batch": 1, "runtime__concurrency": 4}
    run = make_run(**served, **limits)
    report = caption.caption(run)
    assert report.computed == len(run.references) > 4
    assert server.stub.most == 4
    assert server.stub.listed == 1
    assert set(caption.by_image(caption.record_file(run))) == set(run.references)


def test_captions_are_stored_as_they_arrive_and_images_opened_as_they_are_needed(
    start: Start, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    really = caption.open_image

    def open_one(file: Path, **how: Any) -> Image.Image:
        opened.append(file)
        if file == run.dataset.images[run.references[1]]:
            raise InputError(f"{file} is empty.")
        return really(file, **how)

    monkeypatch.setattr(caption, "open_image", open_one)
    answered: list[str] = []

    def plan(text: str, tries: int) -> Fault | None:
        answered.append(text)
        return Fault(401) if len(answered) > 2 else None

    server = start(plan=plan)
    served = {"captioner__model": "served:echo", "captioner__url": server.url}
    run = make_run(**served, captioner__samples=2, runtime__concurrency=1)
    with pytest.raises(ModelError, match="refuses the key"):
        caption.caption(run)
    stored = caption.by_image(caption.record_file(run))
    assert sum(map(bool, stored.values())) == 2
    assert stored[run.references[1]] == []
    assert len(opened) == 4  # of those two, the broken one and the refused one
    server.stub.plan = lambda text, tries: None
    again = caption.caption(run)
    count = len(run.references)
    assert (again.cached, again.computed, len(again.failed)) == (2, count - 3, 1)

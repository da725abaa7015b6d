"""A small OpenAI-compatible server that answers at once, or misbehaves as told.

For unit tests and the client's benchmark only: ``python -m tests.stub PORT``.
"""

import asyncio
import json
import math
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web


@dataclass
class Fault:
    """What to do instead of answering."""

    status: int = 200
    body: str = '{"error": {"message": "told to fail"}}'
    retry_after: str | None = None
    hang: bool = False
    reset: bool = False
    cut: bool = False
    """Send half of ``body``, then close the connection."""
    slow: float = 0.0
    """Seconds to wait before a good answer; the rest is then ignored."""


@dataclass
class Thinking:
    """How the model thinks before it answers, as servers of today show it."""

    thought: str = "Okay, the user wants a description of the edited image.\n\nLet me see."
    tokens: int = 500
    """How many tokens the thought takes: with fewer, the answer is cut off within it."""
    shown: Literal["marks", "closing mark", "channels", "field", "parts"] = "marks"
    """In the content between marks, behind a template that opened it, as gpt-oss; or apart."""
    field: str = "reasoning_content"
    obeys: bool = False
    """Whether ``enable_thinking: false`` switches it off, as in templates of Qwen3."""
    misplaced: bool = False
    """Whether an answer without a thought is taken for one, as by some parsers of vLLM."""

    def message(self, answer: str, asked: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """Return a choice's message and finish reason."""
        off = asked.get("chat_template_kwargs", {}).get("enable_thinking") is False
        if off and self.misplaced:
            return {"content": None, self.field: answer}, "stop"
        if off and self.obeys:
            return {"content": answer}, "stop"
        limit = asked.get("max_tokens") or asked["max_completion_tokens"]
        whole = limit > self.tokens and "\n" not in asked.get("stop", ())
        content = {
            "marks": ("<think>\n", "\n</think>\n\n"),
            "closing mark": ("", "\n</think>\n\n"),
            "channels": (
                "<|channel|>analysis<|message|>",
                "<|end|><|start|>assistant<|channel|>final<|message|>",
            ),
        }
        if self.shown in content:
            begin, end = content[self.shown]
            text = begin + self.thought + (end + answer if whole else "")
            return {"content": text}, "stop" if whole else "length"
        if self.shown == "field":
            message = {"content": answer if whole else None, self.field: self.thought}
            return message, "stop" if whole else "length"
        said = {"type": "thinking", "thinking": [{"type": "text", "text": self.thought}]}
        parts = [said, *([{"type": "text", "text": answer}] if whole else [])]
        return {"content": parts}, "stop" if whole else "length"


Plan = Callable[[str, int], Fault | None]
"""From the last message and how often it was asked before, to a fault or None."""


@dataclass
class Stub:
    """Echoes the last message in capitals, ``n`` times. ``plan`` says when not to."""

    plan: Plan = lambda text, tries: None
    answer: Callable[[str], str] = str.upper
    delay: float = 0.0
    crowd: int = 1
    """How many have to be asked at a time before the first is answered, however slow all is."""
    held: bool = False
    """Whether all that ask are kept waiting, for as long as it is so."""
    model: str = "echo"
    key: str | None = None
    finish_reason: str = "stop"
    keep: bool = True
    """Whether to keep what was asked in ``seen``."""
    seen: list[dict[str, Any]] = field(default_factory=list)
    tries: Counter[str] = field(default_factory=Counter)
    listed: int = 0
    """How often the model was listed."""
    running: int = 0
    most: int = 0
    metrics: str | None = None
    log_probabilities: bool = True
    thinking: Thinking | None = None
    refuses: dict[str, str] = field(default_factory=dict)
    """Parameters that a request may not hold, and what is then said."""
    refuses_system: str | None = None
    """What is said of a system turn, where the template takes none."""
    refusal: int = 400
    """The HTTP status of both."""
    yes: Callable[[dict[str, Any]], float | None] = lambda asked: 0.5
    """The probability of yes where log-probabilities are asked for; None for another answer."""

    def application(self) -> web.Application:
        """Return the server's routes."""
        app = web.Application(client_max_size=1 << 26)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/metrics", self.show_metrics)
        app.router.add_post("/v1/chat/completions", self.complete)
        return app

    def _refused(self, request: web.Request) -> web.Response | None:
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            wrong = {"error": {"message": f"wrong key {request.headers.get('Authorization')}"}}
            return web.json_response(wrong, status=401)
        return None

    async def models(self, request: web.Request) -> web.Response:
        """List the one model."""
        self.listed += 1
        return self._refused(request) or web.json_response({"data": [{"id": self.model}]})

    async def show_metrics(self, request: web.Request) -> web.Response:
        """Answer as vLLM's Prometheus endpoint does, if told to."""
        if self.metrics is None:
            raise web.HTTPNotFound
        return web.Response(text=self.metrics)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """Answer one chat."""
        return await self.serve(request, _last_text, self._chat)

    def _chat(self, asked: dict[str, Any]) -> web.Response:
        choices = self._choices(_last_text(asked), asked)
        if asked.get("logprobs") and self.log_probabilities:
            choices[0]["logprobs"] = {"content": self._tokens(asked, choices[0])}
        return web.json_response({"choices": choices, "usage": {"total_tokens": 100}})

    async def serve(
        self,
        request: web.Request,
        text_of: Callable[[dict[str, Any]], str],
        answer: Callable[[dict[str, Any]], web.Response],
    ) -> web.StreamResponse:
        """Answer one request, unless the plan for its text says otherwise."""
        refused = self._refused(request)
        if refused:
            return refused
        asked = await request.json()
        text = text_of(asked)
        if self.keep:
            self.seen.append(asked)
        tries = self.tries[text]
        self.tries[text] += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            while self.most < self.crowd:
                await asyncio.sleep(0.005)
            if self.delay:
                await asyncio.sleep(self.delay)
            while self.held:
                await asyncio.sleep(0.01)
            fault = self.plan(text, tries)
            if fault is not None and fault.slow:
                await asyncio.sleep(fault.slow)
                fault = None
            fault = fault or self._wrong(asked)
            if fault is None:
                return answer(asked)
            if fault.reset and request.transport is not None:
                request.transport.abort()
            if fault.hang:
                await asyncio.sleep(3600)
            if fault.cut:
                return await self._cut(request, fault.body.encode())
            headers = {"Retry-After": fault.retry_after} if fault.retry_after else {}
            return web.Response(text=fault.body, status=fault.status, headers=headers)
        finally:
            self.running -= 1

    async def _cut(self, request: web.Request, body: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(len(body))})
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        if request.transport is not None:
            request.transport.close()
        return response

    def _wrong(self, asked: dict[str, Any]) -> Fault | None:
        said = [words for name, words in self.refuses.items() if name in asked]
        if self.refuses_system and any(m["role"] == "system" for m in asked["messages"]):
            said.append(self.refuses_system)
        return Fault(self.refusal, json.dumps({"error": {"message": said[0]}})) if said else None

    def _tokens(self, asked: dict[str, Any], choice: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the log-probabilities of the answer's first token, behind those of a thought."""
        first = self._first_token(asked)
        message = choice["message"]
        text = message["content"] or message.get("reasoning_content") or ""
        if self.thinking is None or text == first["token"]:
            return [first]
        thought = text.removesuffix(first["token"])
        if message.get("content") and message.get("reasoning_content"):
            thought = message["reasoning_content"]
        before = [{"token": c, "logprob": -0.5, "top_logprobs": []} for c in thought]
        return [*before, first] if choice["finish_reason"] == "stop" else before[:1]

    def _first_token(self, asked: dict[str, Any]) -> dict[str, Any]:
        share = self.yes(asked)
        if share is None:
            return {"token": "Sure", "logprob": -0.1, "top_logprobs": []}
        likely = {" Yes": share, "No": 1 - share}
        top = [
            {"token": word, "logprob": math.log(value)} for word, value in likely.items() if value
        ]
        return {**top[0], "top_logprobs": top if "top_logprobs" in asked else []}

    def _choices(self, text: str, asked: dict[str, Any]) -> list[dict[str, Any]]:
        choices = []
        for i in range(asked.get("n", 1)):
            answer = self.answer(text) if i == 0 else f"{i}"
            message, finish = {"content": answer}, self.finish_reason
            if self.thinking is not None:
                message, finish = self.thinking.message(answer, asked)
            message = {"role": "assistant", **message}
            choices.append({"index": i, "message": message, "finish_reason": finish})
        return choices


def _last_text(asked: dict[str, Any]) -> str:
    content = asked["messages"][-1]["content"]
    text: str = content if isinstance(content, str) else content[-1]["text"]
    return text


class Running:
    """A stub served by a thread of this process; ``stop`` ends it at once. Port 0 is any free."""

    def __init__(self, stub: Stub, port: int = 0) -> None:
        self.stub = stub
        self.port = port
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(120)
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def _run(self, ready: threading.Event) -> None:
        async def start() -> None:
            app = self.stub.application()
            self._runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True)
            await self._runner.setup()
            self._site = web.TCPSite(self._runner, "127.0.0.1", self.port)
            await self._site.start()
            self.port = self._runner.addresses[0][1]
            ready.set()

        self._loop.run_until_complete(start())
        self._loop.run_forever()

    def stop(self) -> None:
        """End the server and drop its connections, those that hang too."""

        async def end() -> None:
            await self._site.stop()
            for task in asyncio.all_tasks():
                if task is not asyncio.current_task():
                    task.cancel()
            if self._runner.server is not None:
                await self._runner.server.shutdown(0)

        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(end(), self._loop).result(120)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(120)


Start = Callable[[Stub], Running]
"""What the fixture ``start`` of tests of clients gives."""


if __name__ == "__main__":
    web.run_app(Stub().application(), host="127.0.0.1", port=int(sys.argv[1]), print=None)

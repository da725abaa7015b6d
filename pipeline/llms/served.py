"""An LLM behind an OpenAI-compatible server, such as ``vllm serve``."""

import asyncio
import os
from collections.abc import AsyncGenerator, Iterator, Sequence

import openai

from pipeline.config import LlmConfig, RuntimeConfig
from pipeline.errors import ModelError
from pipeline.llms import Answer, Request


class ServedLlm:
    """Keeps a bounded number of requests in flight; the client backs off and retries by itself."""

    def __init__(self, config: LlmConfig, runtime: RuntimeConfig) -> None:
        self.model = config.model
        self.url = config.url
        self.runtime = runtime
        self.key = os.environ.get(runtime.api_key_variable) or "none"

    def answer(self, requests: Sequence[Request]) -> Iterator[Answer]:
        """Yield answers as they arrive; raises ModelError if the server or the model is not there.

        Stopping early (Ctrl-C) cancels what is in flight; what was yielded is the caller's.
        """
        with asyncio.Runner() as runner:
            answers = self._answer(requests)
            try:
                while True:
                    try:
                        yield runner.run(answers.asend(None))
                    except StopAsyncIteration:
                        return
            finally:
                runner.run(answers.aclose())

    async def _answer(self, requests: Sequence[Request]) -> AsyncGenerator[Answer, None]:
        async with openai.AsyncOpenAI(
            base_url=self.url,
            api_key=self.key,
            timeout=self.runtime.timeout,
            max_retries=self.runtime.retries,
        ) as client:
            await self._check(client)
            waiting = iter(requests)
            running: set[asyncio.Task[Answer]] = set()
            try:
                while True:
                    for request in waiting:
                        running.add(asyncio.create_task(self._ask(client, request)))
                        if len(running) >= self.runtime.concurrency:
                            break
                    if not running:
                        return
                    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        yield task.result()
            finally:
                for task in running:
                    task.cancel()

    async def _check(self, client: openai.AsyncOpenAI) -> None:
        try:
            served = [model.id async for model in client.with_options(max_retries=1).models.list()]
        except openai.AuthenticationError:
            raise ModelError(
                f"The LLM server at {self.url} wants a key: set {self.runtime.api_key_variable}."
            ) from None
        except openai.APIStatusError:
            return  # some servers do not list their models
        except openai.APIError as error:
            raise ModelError(
                f"There is no LLM server at {self.url} ({error}). Start one with "
                f"`vllm serve {self.model}` or give --llm-url; or run a model in process with "
                "--llm transformers:NAME."
            ) from None
        if self.model not in served:
            raise ModelError(
                f"The server at {self.url} does not serve {self.model!r}. It serves: "
                f"{', '.join(served) or 'nothing'}. Choose with --llm."
            )

    async def _ask(self, client: openai.AsyncOpenAI, request: Request) -> Answer:
        try:
            completion = await client.chat.completions.create(
                model=self.model,
                messages=request.messages,  # type: ignore[arg-type]
                max_tokens=request.max_tokens,
                temperature=request.temperature,
                seed=request.seed,
                stop=list(request.stop) or None,
            )
        except openai.APITimeoutError:
            return Answer(request.key, None, f"no answer within {self.runtime.timeout:g} s")
        except (openai.APIConnectionError, openai.NotFoundError, openai.AuthenticationError) as e:
            raise ModelError(
                f"The LLM server at {self.url} stopped answering ({e}). Answers so far are kept; "
                "start it again and repeat the same command."
            ) from None
        except openai.APIError as error:
            return Answer(request.key, None, f"{type(error).__name__}: {error}")
        if not completion.choices:
            return Answer(request.key, None, "the server returned no choice")
        return Answer(request.key, completion.choices[0].message.content or "")

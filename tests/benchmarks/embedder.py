"""A served embedder's throughput beside a bare asynchronous loop of its requests, in one run.

The server is a stub in another process, which holds a number of requests for a while, as a GPU
would, and answers with 2,048 numbers. Images are JPEG files of 640 x 480 pixels. The loop has its
bodies ready; the encoder makes them, and the embed stage reads and decodes the images as well.
"""

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import click
import numpy as np
from aiohttp import web

from pipeline.config import ClipConfig, RuntimeConfig
from pipeline.images.files import open_image
from pipeline.models.encoders import _selfcheck
from pipeline.models.encoders.base import INSTRUCTION
from pipeline.models.encoders.served import ServedEncoder, conversation
from pipeline.stages import embed
from tests.benchmarks.embed import _photographs, _run
from tests.benchmarks.report import Size, table
from tests.conftest import PROJECT

FLIGHT = 64
"""Requests in flight, and at a time in the server."""
HELD = 0.5
"""Seconds that the server holds a request: so it does 128 a second."""
WIDTH = 2048


def tables(size: Size) -> Iterator[str]:
    """Embed as many images as ``size`` says, three ways."""
    count, rounds = (1024, 2) if size == "small" else (4096, 3)
    _selfcheck.check = lambda *_: None  # the stub's vectors say nothing
    with tempfile.TemporaryDirectory() as name, _serving() as url:
        root = Path(name)
        _photographs(root, count)
        run = _run(root, count, "served:stub", batch=256)
        config = ClipConfig(model="stub", url=url)
        runtime = RuntimeConfig(concurrency=FLIGHT)
        clip = config.model_copy(update={"model": "served:stub"})
        run = replace(run, config=run.config.model_copy(update={"clip": clip, "runtime": runtime}))
        encoder = ServedEncoder(config, runtime)
        pictures = [encoder.prepare(open_image(file)) for file in run.dataset.images.values()]
        bodies = [{"model": "stub", **conversation(INSTRUCTION, one, "")} for one in pictures]
        ready = [json.dumps(body).encode() for body in bodies]
        ways: dict[str, Callable[[int], Any]] = {
            "a bare asynchronous loop, bodies ready": lambda _: asyncio.run(_loop(url, ready)),
            "the encoder, images ready": lambda _: encoder.images(pictures),
            "the embed stage": lambda number: embed.embed_images(
                replace(run, cache=root / f"cache-{number}")
            ),
        }
        best = dict.fromkeys(ways, 0.0)
        cost = dict.fromkeys(ways, float("inf"))
        for number in range(rounds):
            for way, work in ways.items():
                start, cpu = time.perf_counter(), time.process_time()
                work(number)
                cost[way] = min(cost[way], 1000 * (time.process_time() - cpu) / count)
                best[way] = max(best[way], count / (time.perf_counter() - start))
    (bare, *_) = best.values()
    yield table(
        f"A served embedder, {count:,} images, {FLIGHT} requests in flight, best of {rounds}",
        ("way", "images a second", "of the loop", "its process's CPU, ms an image"),
        [
            (way, f"{rate:.0f}", f"{rate / bare:.2f}", f"{cost[way]:.2f}")
            for way, rate in best.items()
        ],
    )


async def _loop(url: str, bodies: list[bytes]) -> list[Any]:
    """Send the bodies, ``FLIGHT`` at a time, and return the vectors."""
    waiting = iter(enumerate(bodies))
    found: list[Any] = [None] * len(bodies)
    kind = {"Content-Type": "application/json"}
    connector = aiohttp.TCPConnector(limit=0)

    async def work(session: aiohttp.ClientSession) -> None:
        for place, body in waiting:
            async with session.post(f"{url}/embeddings", data=body, headers=kind) as response:
                answer = await response.json()
            found[place] = np.array(answer["data"][0]["embedding"], dtype=np.float32)

    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(work(session) for _ in range(FLIGHT)))
    return found


@contextlib.contextmanager
def _serving() -> Iterator[str]:
    """Run the stub in a process of its own; yield its URL."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    command = [sys.executable, "-m", "tests.benchmarks.embedder", str(port)]
    process = subprocess.Popen(command, cwd=PROJECT)
    try:
        for _ in range(300):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


@click.command()
@click.argument("port", type=int)
def main(port: int) -> None:
    """Serve the stub."""
    vector = np.random.default_rng(0).standard_normal(WIDTH).round(6).tolist()
    answer = json.dumps({"data": [{"embedding": vector}], "usage": {"total_tokens": 900}}).encode()
    room = asyncio.Semaphore(FLIGHT)

    async def embeddings(request: web.Request) -> web.Response:
        await request.read()
        async with room:
            await asyncio.sleep(HELD)
        return web.Response(body=answer, content_type="application/json")

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "stub"}]})

    app = web.Application(client_max_size=1 << 26)
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/embeddings", embeddings)
    web.run_app(app, host="127.0.0.1", port=port, print=None)


if __name__ == "__main__":
    main()

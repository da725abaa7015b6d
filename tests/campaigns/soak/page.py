"""The page's server under many users at once, who do what people do."""

import asyncio
import json
import random
import shutil
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from pipeline import config
from pipeline.demo import world
from tests.app_server import Served
from tests.campaigns.soak import MIB

WARM_UP = 0.25
"""Share of the time after which the memory is first read."""
SETTLED = 20.0
"""Seconds of warm-up from which on it should not grow any more: models have had their first work,
and thumbnails are there."""
GROWTH = 64 * MIB
"""What the server may grow by after that, its memory of texts and images included."""
THREADS = 8
"""That the server may start for its work, and keep: four for models, two for images and rankings,
one for new texts, one for the rest."""
LEAVING = 0.1
"""Share of the queries whose user goes away before the answer."""
UPLOADS = 0.25
"""Share of the queries with an image of the user's own."""
SLIDES = 4
"""Rankings after a query, as a slider moves."""
CONNECTIONS = 6
"""That a browser opens to one server."""
PATIENCE = 60.0
"""Seconds after the last visit in which a busy machine must have closed all connections."""
PAUSE = 1.0
"""Seconds that a user looks at something, on average."""


@dataclass(frozen=True)
class State:
    """What the server's process holds at a moment."""

    when: str
    memory: int
    """Resident bytes."""
    files: int
    """Open file descriptors, connections included."""
    threads: int


@dataclass
class Found:
    """What a soak of the page found."""

    users: int
    seconds: float
    latencies: dict[str, list[float]]
    """Seconds, by kind of request."""
    busy: int
    """Requests that were told politely to come back."""
    left: int
    """Queries whose user went away."""
    errors: Counter[str]
    states: list[State]
    log: str
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for error, count in self.errors.items():
            self.problems.append(f"{count} times: {error}")
        if self.log:
            self.problems.append(f"the server said: {self.log[-2000:]}")
        before, warm, *_, end, after = self.states
        if WARM_UP * self.seconds >= SETTLED and end.memory - warm.memory > GROWTH:
            self.problems.append(f"the memory grew by {(end.memory - warm.memory) / MIB:.0f} MiB")
        if after.files > before.files:
            self.problems.append(f"{after.files - before.files} files or connections stay open")
        if after.threads - before.threads > THREADS:
            self.problems.append(f"{after.threads - before.threads} threads are left")

    def table(self) -> str:
        """Return the figures as Markdown tables."""
        asked = sum(map(len, self.latencies.values()))
        lines = [
            f"{self.users} users, {self.seconds:.0f} s: {asked:,} requests answered, "
            f"{sum(self.errors.values())} errors, {self.busy} told to come back, "
            f"{self.left} left before the answer.",
            "",
            "| request | count | p50 | p95 | longest |",
            "| --- | --- | --- | --- | --- |",
        ]
        for kind, seconds in self.latencies.items():
            _, *cuts = statistics.quantiles(seconds, n=20) if len(seconds) > 1 else [0, *seconds]
            low, high = statistics.median(seconds), cuts[-1]
            figures = (f"{value * 1000:,.0f} ms" for value in (low, high, max(seconds)))
            lines.append(f"| {kind} | {len(seconds):,} | {' | '.join(figures)} |")
        lines += ["", "| server | memory | open files | threads |", "| --- | --- | --- | --- |"]
        for at in self.states:
            memory = f"{at.memory / MIB:.0f} MiB"
            lines.append(f"| {at.when} | {memory} | {at.files} | {at.threads} |")
        return "\n".join(lines)


class User:
    """One visitor: a browser's connections, and what was found so far."""

    def __init__(self, number: int, address: str, uploads: list[bytes], found: "Shared") -> None:
        self.rng = random.Random(number)
        self.address = address
        self.uploads = uploads
        self.found = found

    async def visit(self, until: float) -> None:
        """Come back again and again until the time is over."""
        while time.monotonic() < until:
            connector = aiohttp.TCPConnector(limit_per_host=CONNECTIONS)
            async with aiohttp.ClientSession(self.address, connector=connector) as self.session:
                await self._visit(until)

    async def _visit(self, until: float) -> None:
        for path in ("/", "/app.js", "/app.css", "/icon.svg", "/settings"):
            await self._get("page", path)
        listed = await self._list()
        if not listed:
            return
        reference, upload = self.rng.choice(listed)["hash"], None
        if self.rng.random() < UPLOADS:
            upload = self.rng.choice(self.uploads)
        for turn in range(self.rng.randint(1, 3)):
            if turn and time.monotonic() >= until:
                return
            text = world.random_edit(world.random_scene(self.rng), self.rng).text
            result = await self._query(text, None if upload else reference, upload)
            if result is None:
                return
            await self._look(result)
            reference, upload = self.rng.choice(result["images"])["hash"], None

    async def _list(self) -> list[dict[str, Any]]:
        path = f"/gallery?start={self.rng.choice((0, 0, 48))}&name="
        found = await self._get("gallery", path)
        images: list[dict[str, Any]] = json.loads(found)["images"] if found else []
        await self._images(images[:24], "small")
        return images

    async def _look(self, result: dict[str, Any]) -> None:
        """See the images, open one, move the sliders."""
        await self._images(result["images"], "small")
        await self._images(result["images"][:1], "large")
        for _ in range(SLIDES):
            body = {
                "reference": result["reference"],
                "relative_caption": result["relative_caption"],
                "captions": result["captions"],
                "edited_captions": result["edited_captions"],
                "alpha_neg": round(self.rng.uniform(0, 3), 2),
                "top_k": 24,
            }
            await self._timed("rank", self.session.post("/rank", json=body))
            await asyncio.sleep(self.rng.expovariate(4 / PAUSE))
        await asyncio.sleep(self.rng.expovariate(1 / PAUSE))

    async def _images(self, images: list[dict[str, Any]], size: str) -> None:
        paths = [f"/images/{image['hash']}/{size}" for image in images]
        await asyncio.gather(*(self._get(f"{size} image", path) for path in paths))

    async def _query(
        self, text: str, reference: str | None, upload: bytes | None
    ) -> dict[str, Any] | None:
        form = aiohttp.FormData({"relative_caption": text, "top_k": "24"})
        if upload:
            form.add_field("image", upload, filename="mine.png", content_type="image/png")
        else:
            form.add_field("reference", reference)
        leaves = self.rng.random() < LEAVING
        start = time.monotonic()
        async with self.session.post("/query", data=form) as response:
            if response.status != 200:
                self.found.refused("query", response.status, await response.text())
                return None
            async for line in response.content:
                told = json.loads(line)
                if leaves:
                    self.found.left += 1
                    await asyncio.sleep(self.rng.uniform(0, 0.2))
                    response.close()
                    return None
                if "error" in told:
                    self.found.errors[f"query: {told['error']}"] += 1
                    return None
                if "result" in told:
                    self.found.latencies["query"].append(time.monotonic() - start)
                    result: dict[str, Any] = told["result"]
                    return result
        self.found.errors["query: ended without a result"] += 1
        return None

    async def _get(self, kind: str, path: str) -> bytes | None:
        return await self._timed(kind, self.session.get(path))

    async def _timed(self, kind: str, asked: Any) -> bytes | None:
        start = time.monotonic()
        async with asked as response:
            body: bytes = await response.read()
        if response.status != 200:
            self.found.refused(kind, response.status, body.decode(errors="replace"))
            return None
        self.found.latencies[kind].append(time.monotonic() - start)
        return body


@dataclass
class Shared:
    """What all users saw."""

    latencies: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: Counter[str] = field(default_factory=Counter)
    busy: int = 0
    left: int = 0

    def refused(self, kind: str, status: int, body: str) -> None:
        """Count a status other than 200: 503 with a sentence is what the page shows and is fine."""
        if status == 503 and "Try again" in body:
            self.busy += 1
        else:
            self.errors[f"{kind}: HTTP {status} {body[:200]}"] += 1


def pictures(root: Path) -> tuple[Path, list[Path]]:
    """Return a folder of a rendered world to search, and images that are not in it."""
    return (
        root / "CIRCO" / "COCO2017_unlabeled" / "unlabeled2017",
        sorted((root / "CIRR").rglob("*.png"))[:20],
    )


def soak(users: int, seconds: float, folder: Path, uploads: list[Path], *options: str) -> Found:
    """Serve a copy of ``folder``, and let ``users`` search it for ``seconds``.

    ``uploads`` are images of theirs; ``options`` go to `seize app`.
    """
    with tempfile.TemporaryDirectory() as name, Path(name, "log").open("w+") as log:
        root = Path(name) / "photos"
        shutil.copytree(folder, root)
        served = Served(root, Path(name) / "cache", *options, stderr=log)
        try:
            contents = [file.read_bytes() for file in uploads]
            shared, states = asyncio.run(_drive(served, users, seconds, contents))
        finally:
            served.stop()
        log.seek(0)
        said = [line for line in log if not line.startswith("Stopped.")]
    if (note := f"{config.load('demo').note}\n") in said:
        said.remove(note)  # to be said, once
    return Found(
        users,
        seconds,
        dict(shared.latencies),
        shared.busy,
        shared.left,
        shared.errors,
        states,
        "".join(said),
    )


async def _drive(
    served: Served, users: int, seconds: float, uploads: list[bytes]
) -> tuple[Shared, list[State]]:
    process, shared = psutil.Process(served.process.pid), Shared()

    def state(when: str) -> State:
        with process.oneshot():
            memory, threads = process.memory_info().rss, process.num_threads()
        return State(when, memory, process.num_fds(), threads)

    async def one(number: int, until: float) -> None:
        try:
            await User(number, served.address, uploads, shared).visit(until)
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            shared.errors[f"connection: {type(error).__name__} {error}"] += 1

    # One visit before: its query waits for the models to be loaded.
    await User(users, served.address, uploads, Shared()).visit(time.monotonic() + 0.1)
    await asyncio.sleep(1)
    states = [state("idle, before")]
    start = time.monotonic()
    visits = [asyncio.create_task(one(number, start + seconds)) for number in range(users)]
    for share, when in ((WARM_UP, "after warm-up"), (0.6, "in the middle"), (0.98, "at the end")):
        await asyncio.sleep(max(0.0, start + share * seconds - time.monotonic()))
        states.append(state(when))
    await asyncio.gather(*visits)
    await asyncio.sleep(2)
    end = time.monotonic() + PATIENCE
    while process.num_fds() > states[0].files and time.monotonic() < end:
        await asyncio.sleep(0.1)
    return shared, [*states, state("idle, after")]

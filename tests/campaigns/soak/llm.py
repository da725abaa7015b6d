"""The edit stage under faults: every pair must be answered once, whatever its servers do.

``python -m tests.campaigns.soak.llm SHARE NAME`` is such a server: it spoils that share of answers,
others than a server of another name does.
"""

import hashlib
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from aiohttp import web

from pipeline import config, datasets
from pipeline.datasets.circo import LISTING
from pipeline.installation import PROJECT
from pipeline.run import Run
from pipeline.stages import caption, edit
from pipeline.stages.editor import Pair
from pipeline.store.jsonl import write_records
from tests.campaigns.soak import MIB
from tests.stub import Fault, Stub

SAMPLES = 15
"""Captions an image, as SEIZE takes."""
TIMEOUT = 3.0
"""Seconds a request may take, so that those that hang cost little."""
SLOW = 1.0
"""Seconds that a slow answer takes."""
MARKS = (0.1, 0.25, 0.5, 0.75, 1.0)
"""Shares of the records at which the memory is read."""
GROWTH = 32 * MIB
"""What the process may grow by from the first of these marks to the last and still be flat."""

EMPTY = "empty answer"
"""Given at most once to a prompt by each server: three in a row are rightly recorded as failed."""
SPOILED = 3
"""Tries of a prompt that a server spoils at most: a client that gives up after seven is right."""

FAULTS = {
    "HTTP 500": Fault(500),
    "HTTP 503, Retry-After": Fault(503, retry_after="0.2"),
    "HTTP 429, Retry-After": Fault(429, retry_after="0.2"),
    "connection reset": Fault(reset=True),
    "body cut off": Fault(cut=True),
    "no JSON": Fault(body="<html>proxy error</html>"),
    "JSON cut off": Fault(body='{"choices": [{"mess'),
    EMPTY: Fault(body='{"choices": [{"message": {"content": " "}}]}'),
    "no answer in time": Fault(hang=True),
    "slow answer": Fault(slow=SLOW),
}
GOOD = "good answers"

ASKED = re.compile(r"Image Content: (.*)\nInstruction: (.*)\nEdited Description:$")


def edited(text: str, relative_caption: str) -> str:
    """Return the one right answer to a pair, so that answers to another one are noticed."""
    return f"{text}, and it {relative_caption}"


class Faulty(Stub):
    """Spoils a share of the answers; which ones depends on its name, the prompt and the try."""

    def __init__(self, share: float, name: str) -> None:
        super().__init__(plan=self._spoil, answer=self._edit, keep=False)
        self.share = share
        self.name = name
        self.told: Counter[str] = Counter()

    def _spoil(self, prompt: str, tries: int) -> Fault | None:
        key = f"{self.name}/{tries}/{prompt}".encode()
        number = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest())
        kind = list(FAULTS)[number % len(FAULTS)]
        hopeless = tries >= SPOILED or (kind == EMPTY and tries)
        if number / 2**64 >= self.share or hopeless:
            return None
        self.told[kind] += 1
        return FAULTS[kind]

    def _edit(self, prompt: str) -> str:
        self.told[GOOD] += 1
        found = ASKED.search(prompt)
        assert found, prompt
        return f"Edited Description: {edited(found[1], found[2])}"

    def application(self) -> web.Application:
        """Return the routes: the stub's, and ``/told`` for what was answered."""
        app = super().application()
        app.router.add_get("/told", self._tell)
        return app

    async def _tell(self, _: web.Request) -> web.Response:
        return web.json_response(self.told)


@contextmanager
def serving(share: float, name: str) -> Iterator[str]:
    """Run a faulty server as a process; yield its address."""
    command = [sys.executable, "-m", "tests.campaigns.soak.llm", str(share), name]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def make_run(folder: Path, requests: int) -> Run:
    """Return a run on a dataset of that many pairs, its captions made as by the caption stage."""
    root, count = folder / "CIRCO", -(-requests // SAMPLES)
    ids = range(1, count + 1)
    listing = {"images": [{"id": i, "file_name": f"{i:012d}.jpg"} for i in ids]}
    queries = [
        {"id": i, "reference_img_id": i, "relative_caption": f"is changed in way {i}"} for i in ids
    ]
    for file, content in ((LISTING, listing), ("annotations/test.json", queries)):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(json.dumps(content))
    run = Run(
        datasets.load("circo", "test", folder),
        config.load("paper-l14", {"llm.model": "echo"}),
        folder / "cache",
        folder / "submissions",
    )
    left = requests
    records = []
    for image in run.references:
        texts = [f"photo {n} of picture {image} with a few words" for n in range(SAMPLES)]
        records.append({"image": image, "captions": texts[:left]})
        left -= len(texts[:left])
    made = caption.record_file(run)
    write_records(made.file, made.header, records)
    return run


@dataclass
class Found:
    """What a soak of the edit stage found."""

    requests: int
    records: int
    failed: int
    lost: int
    doubled: int
    wrong: int
    seconds: float
    told: Counter[str]
    memory: dict[float, int]
    """Resident bytes of the process, by the share of records that were written."""
    code: int
    said: str
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("failed", "lost", "doubled", "wrong"):
            if count := getattr(self, name):
                self.problems.append(f"{count} pairs are {name}")
        if self.told[GOOD] != self.requests:
            self.problems.append(f"{self.told[GOOD]} good answers for {self.requests} requests")
        if self.code:
            self.problems.append(f"the edit stage ended with {self.code}: {self.said}")
        if self.growth > GROWTH:
            self.problems.append(f"the memory grew by {self.growth / MIB:.0f} MiB")

    @property
    def growth(self) -> int:
        """Bytes by which the process grew from the first mark to the last."""
        marks = [self.memory[mark] for mark in MARKS if mark in self.memory]
        return marks[-1] - marks[0] if marks else 0

    def table(self) -> str:
        """Return the figures as a Markdown table."""
        spoiled = sum(self.told.values()) - self.told[GOOD]
        kinds = ", ".join(f"{kind} {self.told[kind]:,}" for kind in FAULTS)
        memory = ", ".join(
            f"{self.memory[mark] / MIB:.0f} MiB at {mark:.0%}"
            for mark in MARKS
            if mark in self.memory
        )
        lines = {
            "pairs, records of them": f"{self.requests:,}, {self.records:,}",
            "lost, doubled, failed, another's answer": (
                f"{self.lost}, {self.doubled}, {self.failed}, {self.wrong}"
            ),
            "spoiled answers": f"{spoiled:,} ({kinds})",
            "memory of the process": memory,
            "requests a second": f"{self.requests / self.seconds:,.0f}",
        }
        rows = "\n".join(f"| {name} | {value} |" for name, value in lines.items())
        return f"| measure | value |\n| --- | --- |\n{rows}"


def soak(
    requests: int, faults: float, servers: int, concurrency: int, timeout: float = TIMEOUT
) -> Found:
    """Edit ``requests`` pairs by the real command against faulty servers, and look at its file.

    Where the machine may stand still for ``timeout``, a good answer may be asked for twice.
    """
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        run = make_run(folder, requests)
        wanted = edit.pairs(run, caption.read(run))
        assert len(wanted) == requests
        addresses = [stack.enter_context(serving(faults, str(i))) for i in range(servers)]
        command = [sys.executable, "-m", "pipeline", "--quiet", "edit", "--config", "paper-l14"]
        command += ["--dataset", "circo", "--split", "test", "--data-root", str(folder)]
        command += [
            "--cache",
            str(run.cache),
            "--llm",
            "echo",
            "--set",
            f"runtime.timeout={timeout}",
        ]
        command += ["--concurrency", str(concurrency)]
        for address in addresses:
            command += ["--llm-url", f"{address}/v1"]
        file = edit.record_file(run).file
        log = stack.enter_context((folder / "log").open("w+"))
        process = subprocess.Popen(command, cwd=PROJECT, stderr=log)
        memory, seconds = _watch(process, file, requests)
        told: Counter[str] = Counter()
        for address in addresses:
            with urllib.request.urlopen(f"{address}/told") as response:
                told.update(json.load(response))
        log.seek(0)
        return _found(run, wanted, told, memory, seconds, process.returncode, log.read())


def _watch(
    process: "subprocess.Popen[bytes]", file: Path, requests: int
) -> tuple[dict[float, int], float]:
    """Return the memory at each mark, and the seconds from the first record to the last."""
    memory: dict[float, int] = {}
    watched, done, place = psutil.Process(process.pid), -1, 0  # the header is no record
    first = last = 0.0
    while process.poll() is None:
        if file.exists():
            with file.open("rb") as stream:
                stream.seek(place)
                new = stream.read()
            place, done = place + len(new), done + new.count(b"\n")
            if new and done > 0:
                last = time.monotonic()
                first = first or last
        for mark in MARKS:
            if done >= mark * requests and mark not in memory:
                try:
                    memory[mark] = watched.memory_info().rss
                except psutil.NoSuchProcess:
                    break
        time.sleep(0.02)
    return memory, last - first


def _found(
    run: Run,
    wanted: list[Pair],
    told: Counter[str],
    memory: dict[float, int],
    seconds: float,
    code: int,
    said: str,
) -> Found:
    records = edit.record_file(run).read()
    times = Counter((record["caption"], record["relative_caption"]) for record in records)
    return Found(
        requests=len(wanted),
        records=len(records),
        failed=sum(record["edited_caption"] is None for record in records),
        lost=sum(times[pair[:2]] == 0 for pair in wanted),
        doubled=sum(count > 1 for count in times.values()),
        wrong=sum(
            record["edited_caption"] not in (None, edited(*pair))
            for record in records
            for pair in [(record["caption"], record["relative_caption"])]
        ),
        seconds=seconds,
        told=told,
        memory=memory,
        code=code,
        said=said,
    )


def main(share: float, name: str) -> None:
    """Serve at a free port, which is printed, until killed."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        print(listening.getsockname()[1], flush=True)
        web.run_app(
            Faulty(share, name).application(),
            sock=listening,
            print=None,
            access_log=None,
            handler_cancellation=True,
        )


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2])

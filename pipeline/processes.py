"""The processes that share a stage: one alone, or those that ``accelerate launch`` started.

accelerate starts the processes, on one machine or many, and lets them wait for one another. They
only wait and tell each other counts, so they are connected by gloo whatever device they compute on.
"""

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from pipeline.errors import SeizeError

Item = TypeVar("Item")

PATIENCE = timedelta(days=30)
"""How long a process waits for the slowest; one that died is noticed at once."""


@dataclass(frozen=True)
class Processes:
    """This process among ``count`` on all machines, ``local_count`` of them on this machine."""

    index: int = 0
    count: int = 1
    local_index: int = 0
    local_count: int = 1

    @property
    def main(self) -> bool:
        """Whether this is the process that merges, logs and prints for all."""
        return self.index == 0

    def share(self, items: Sequence[Item]) -> list[Item]:
        """Return this process's items: every ``count``-th.

        It does not depend on what is done already, so processes that look at different times
        still agree on it.
        """
        return list(items[self.index :: self.count])

    def wait(self) -> None:
        """Return when every process is here; raises SeizeError if one of them ended."""
        self.gather(None)

    def gather(self, item: Item) -> list[Item]:
        """Return the items of all processes in order; waits for them as ``wait`` does."""
        if self.count == 1:
            return [item]
        from accelerate.utils import gather_object

        try:
            gathered: list[Item] = gather_object([item])
        except RuntimeError as error:
            raise SeizeError(
                "Another process of this run ended before its work was done. What was computed is "
                "kept; the same command resumes, with any number of processes."
            ) from error
        return gathered


def launched() -> bool:
    """Whether several processes were started by ``accelerate launch``, from its environment."""
    return "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


@functools.cache
def current() -> Processes:
    """Return this process's place among those of the run; the first call connects them."""
    if not launched():
        return Processes()
    from accelerate import PartialState

    state: Any = PartialState(cpu=True, timeout=PATIENCE)
    return Processes(
        index=state.process_index,
        count=state.num_processes,
        local_index=state.local_process_index,
        local_count=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
    )


def cores() -> int:
    """Return how many processor cores are this process's, among those on this machine."""
    usable = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(usable // current().local_count, 1)

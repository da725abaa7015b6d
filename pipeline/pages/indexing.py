"""Indexing the folder beside the page, which shows how far it is."""

import logging
import threading
from collections.abc import Callable
from typing import Any

from pipeline.errors import SeizeError
from pipeline.own.gallery import Gallery
from pipeline.pages.visitors import for_visitors
from pipeline.run import StageReport

log = logging.getLogger("seize")


class Indexing:
    """The index being brought up to date in a thread of its own, which ends with the program.

    What is being computed then is lost, at most a batch; the next start goes on.
    """

    def __init__(self, gallery: Gallery, done: Callable[[], None] = lambda: None) -> None:
        self._gallery, self._done = gallery, done
        self._report: StageReport | None = None
        self._count = self._before = 0
        self._error: str | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, daemon=True, name="index")
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether it is at work."""
        return self._thread is not None and self._thread.is_alive()

    def as_json(self) -> dict[str, Any] | None:
        """Return how far it is, as the page shows it; None where there was nothing to do."""
        report = self._report
        if self._thread is None:
            return None
        skipped = dict(sorted(report.skipped.items())) if report else {}
        return {
            "running": self.is_running,
            "done": report.cached + report.computed + report.copies if report else 0,
            "total": self._count,
            "failed": len(report.failed) if report else 0,
            "skipped": skipped,
            "error": self._error,
        }

    def _begun(self, report: StageReport, count: int) -> None:
        self._report, self._count = report, count

    def _run(self) -> None:
        try:
            for _ in self._gallery.index_in_rounds(self._begun):
                pass
            self._done()
        except SeizeError as error:
            self._error = for_visitors(error)
            log.error("The folder is not indexed: %s", error)
        except Exception:  # the page goes on with what there is
            self._error = "Indexing failed; the server's log says why."
            log.exception("indexing failed")

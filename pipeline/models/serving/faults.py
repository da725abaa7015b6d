"""Why a request got no answer, and whether that says anything about the request itself."""

from typing import Literal

CROWDED = 10
"""How often a request may be refused without that it counts: halving so often leaves one."""
OVERLOADED = (503, 529)
"""What servers, and proxies before them, answer who have too much to do."""

Kind = Literal["limited", "refused", "lost", "late", "other"]


class Transient(Exception):
    """A fault worth another try; ``after`` is how many seconds the server asks to wait.

    ``kind``: the request is one too many at this time (``limited``: HTTP 429, or where the server
    says when to come back), the server has too much to do (``refused``), the connection was
    ``lost`` or never made, the answer was ``late``, or something else went wrong.
    """

    def __init__(self, message: str, kind: Kind = "other", after: float | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.after = after
        self.crowded = False
        """Whether the server held a request that it had got before."""

    def excused(self, before: int, known: bool) -> bool:
        """Whether it says nothing about the request, which was so excused ``before``.

        ``known``: whether the server ever answered; one that is broken from the start is not waited
        for.
        """
        if self.kind == "limited":
            return True
        few = before < CROWDED
        return few and (
            (self.kind == "refused" and (known or self.crowded))
            or (self.kind == "lost" and self.crowded)
        )


class Refused(Exception):
    """The server will never answer this request (HTTP 400 and the like)."""

    def __init__(self, message: str, complaint: str) -> None:
        super().__init__(message)
        self.complaint = complaint  # all that it says about it

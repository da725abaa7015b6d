"""How many requests one server is sent at a time, and when: learnt from what it answers.

The number begins small and is doubled, or quadrupled, while that makes more answers a second (those
in flight divided by the latency: Little's law). It is judged quickly until a higher one first gives
nothing, and from then on by ever more answers, so that chance does not raise it. Refusals (HTTP
429, 503, a connection that is refused or lost, no answer in time) halve it; what the server held
while it refused is what it can take, to which the number returns at once, and beyond which it goes
by small and ever rarer steps. A server that refuses while it has nothing else to do limits requests
by time: it is left alone for a while, then asked as often as it answered before, and a little more
often as long as that goes well.
"""

import asyncio
import functools
import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.models.serving.limits import Allowance, Limits

START = 8
"""Requests in flight at first, at a server that does not tell how many it can take."""
MOST = 256
"""vLLM's own default for how many sequences it runs at a time."""
SPAN = 16
"""Answers, at least, by which the speed of a number in flight is judged."""
ELASTICITY = 0.1
"""A number that is twice as high must give ``2 ** ELASTICITY`` times as many answers a second."""
FIRST = 8
"""Answers by which the number at first is judged: as many as come together."""
LEAP, WELL, QUICK = 4, 1 / 3, 5.0
"""How many times higher a number is tried after a doubling that gave at least ``2 ** WELL`` times
as many answers a second, each within ``QUICK`` seconds."""
NEARLY = 7 / 8
"""Of the number, how many in flight tell how quick it is."""
LOOKS_AT, CROWD = 8, 3
"""Of so many requests so many refused are no chance, and halve the number in flight."""
PATIENCE, LONGEST_PATIENCE = 32, 4096
"""Answers before a higher number is tried again; doubled whenever that fails."""
FASTER, SLOWEST, UNBOUND = 0.05, 64, 8
"""By how much requests come closer after twice as many answers as the server gave before it refused
(at most ``SLOWEST``), doubled each time; after how many times they are not kept apart any more."""


@dataclass(slots=True, eq=False)
class Ticket:
    """One request in flight."""

    at: float
    """When it was sent."""
    era: int
    """The number's changes before that."""
    beside: int
    """How many were in flight with it."""
    place: int | None
    """How many were sent since the last change when (nearly) as many were in flight as may be; None
    where there were fewer."""


class Pace:
    """The number in flight at one server. Safe to use from threads, each with its own event loop.

    ``backoff`` gives the seconds to wait after so many refusals in a row; ``patience`` is how many
    seconds a server may ask to be left alone.
    """

    def __init__(
        self,
        backoff: Callable[[int], float],
        longest_rest: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self.known = False
        """Whether the server ever answered."""
        self.refusals = 0
        """Requests that the server refused, all told."""
        self.number = START
        """How many may be in flight."""
        self._backoff = backoff
        self._longest_rest = longest_rest
        self._lock = threading.RLock()
        self._waiting: deque[Callable[[], object]] = deque()  # they wake those who wait
        self._open: dict[Ticket, None] = {}  # the oldest first
        self._growth = _Growth()
        self._spacing = _Spacing()
        self._in_a_row = 0
        self._rest_until = -math.inf
        self._limits = Limits(longest_rest)

    @property
    def in_flight(self) -> int:
        """How many requests are in flight."""
        return len(self._open)

    def keep(self, number: int) -> None:
        """Have ``number`` in flight and never more; fewer only where the server refuses."""
        with self._lock:
            self.number = number
            self._growth.most = number

    async def enter(self) -> Ticket:
        """Wait until a request may be sent, and count it."""
        loop = asyncio.get_running_loop()
        while True:
            woken = loop.create_future()
            wake = functools.partial(loop.call_soon_threadsafe, _finish, woken)
            with self._lock:
                wait = self.wait()
                if wait <= 0:
                    return self.take()
                self._waiting.append(wake)
            try:
                async with asyncio.timeout(wait if wait < math.inf else None):
                    await woken
            except TimeoutError:
                self._forget(wake)
            except asyncio.CancelledError:
                if not self._forget(wake):  # it was this one's turn
                    with self._lock:
                        self._rouse()
                raise

    def _forget(self, wake: Callable[[], object]) -> bool:
        """Take one who waits out of the line; return whether it was in there."""
        with self._lock:
            found = wake in self._waiting
            if found:
                self._waiting.remove(wake)
            return found

    def wait(self) -> float:
        """Return in how many seconds a request may be sent; endless where others must end first.

        Until the first answer it is one of few, lest a server that answers nobody gets them all.
        """
        most = self.number if self.known else min(self.number, START)
        if self.in_flight >= (1 if self._spacing.probes else most):
            return math.inf
        now = self.clock()
        allowed = self._limits.until(now, self.in_flight)
        return max(self._rest_until - now, self._spacing.next - now, allowed - now, 0.0)

    def take(self) -> Ticket:
        """Count a request as sent."""
        now = self.clock()
        beside = self.in_flight + 1
        place = self._growth.sent(now) if beside >= NEARLY * self.number else None
        ticket = Ticket(now, self._growth.era, beside, place)
        self._open[ticket] = None
        self._limits.send()
        self._spacing.send(now)
        self._rouse()
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Count a request as ended, once; after ``answered`` or ``refused`` if it was either."""
        with self._lock:
            if ticket in self._open:
                del self._open[ticket]
                self._rouse()

    def answered(self, ticket: Ticket) -> None:
        """Learn from an answer."""
        with self._lock:
            self.known, self._in_a_row = True, 0
            self._spacing.answered(ticket.at)
            self.number = self._growth.answered(ticket, self.number, self.clock())

    def refused(
        self,
        ticket: Ticket,
        after: float | None = None,
        rests: bool = True,
        again: bool = False,
    ) -> bool:
        """Learn from a refusal; return whether the server holds a request that it got before.

        ``after`` is how many seconds it asks to wait. ``rests``: where it had no others, it is left
        alone for a while. ``again``: the request was refused before, so that it is no chance.
        """
        with self._lock:
            now, others = self.clock(), self.in_flight - 1
            self.refusals += 1
            self.number = self._growth.refused(ticket, self.number, others, again)
            if after is not None and after <= self._longest_rest:
                self._rest_until = max(self._rest_until, now + after)
            elif rests and not others:
                self._in_a_row += 1
                self._rest_until = max(self._rest_until, now + self._backoff(self._in_a_row))
            if not others and self._rest_until > now:
                self._spacing.refused(now)
            return next(iter(self._open)) is not ticket

    def rest(self) -> float:
        """Return for how many seconds the server is left alone from now on."""
        return max(self._rest_until - self.clock(), 0.0)

    def told(self, allowed: Mapping[str, Allowance], tokens: int = 1) -> None:
        """Learn what a server allows that answers a request of so many ``tokens``."""
        with self._lock:
            self._limits.told(allowed, self.in_flight - 1, self.clock(), tokens)

    def _rouse(self) -> None:
        """Let the next who waits look whether it may go."""
        if self._waiting and self.in_flight < self.number:
            self._waiting.popleft()()


class _Growth:
    """The number in flight as it follows from answers and refusals."""

    def __init__(self) -> None:
        self.most = MOST
        self.era = 0
        self._cut_at = 0  # the era that the last refusal began
        self._leaps, self._step = True, MOST
        self._proven = 0  # what the server held while it refused more
        self._halved = 0  # half of what was in flight when it refused
        self._best: tuple[int, float] | None = None  # a number, and its answers a second
        self._patience, self._resting = PATIENCE, 0
        self._full_since, self._sent = 0.0, 0  # requests of this era when (nearly) all were sent
        self._answers = 0  # since then
        self._speeds: list[float] = []  # that those requests tell
        self._last: deque[bool] = deque(maxlen=LOOKS_AT)  # whether they were refused

    def sent(self, now: float) -> int:
        """Count a request that completes the number, nearly; return how many did before."""
        if not self._sent:
            self._full_since = now
        self._sent += 1
        return self._sent - 1

    def answered(self, ticket: Ticket, number: int, now: float) -> int:
        """Return the number after an answer."""
        self._resting -= 1
        self._last.append(False)
        if number < min(self._proven, self.most):
            return self._change(number + 1)
        most = number == self.most and (self._best is None or self._best[0] == number)
        if most or ticket.era != self.era or not self._sent:
            return number
        self._answers += 1
        speed = self._leapt(ticket, number, now) if self._leaps else self._mean(ticket, number, now)
        if speed is None:
            return number
        before, best = self._best or (number, speed)
        times, paid = 2, speed / best
        if number > before:
            if paid < (number / before) ** ELASTICITY:
                self._rest()
                if self._leaps:  # that was a guess
                    self._leaps, self._best = False, None
                return self._change(before)
            if self._leaps and paid > (number / before) ** WELL and number / speed < QUICK:
                times = LEAP
            self._step *= 2
            self._patience = max(self._patience // 2, PATIENCE)
        self._best = number, speed
        higher = min(number + self._step, times * number, self.most)
        return self._change(number if self._resting > 0 else higher)

    def _leapt(self, ticket: Ticket, number: int, now: float) -> float | None:
        """Return about how many answers a second there are, as soon as that can be told.

        At first those that come are counted. Then it is the median of what the last ones tell that
        were sent to reach the number: known when half are answered, however long the others take.
        """
        if self._best is None:
            few = self._answers < FIRST
            return None if few else self._answers / max(now - self._full_since, 1e-9)
        span = number - math.ceil(NEARLY * number) + 1
        done = self._first(ticket, span, now)
        if len(done) > span // 2:
            return statistics.median(done)
        return 1e-9 if self._answers > 4 * number else None  # most of them failed

    def _mean(self, ticket: Ticket, number: int, now: float) -> float | None:
        """Return answers a second over a longer time."""
        span = max(number, SPAN, self._patience)
        done = self._first(ticket, span, now)
        if not done or (len(done) < span and self._answers <= 4 * span):
            return None
        return statistics.harmonic_mean(done)

    def _first(self, ticket: Ticket, span: int, now: float) -> list[float]:
        """Return what the first ``span`` requests tell, once answered: answers a second, each.

        Not of the first that are answered: they are the short ones.
        """
        if ticket.place is not None and ticket.place < span:
            self._speeds.append(ticket.beside / max(now - ticket.at, 1e-9))
        return self._speeds

    def refused(self, ticket: Ticket, number: int, others: int, again: bool) -> int:
        """Return the number after a refusal, while ``others`` were in flight.

        Requests that were sent before the number was halved do not halve it again, and one of many,
        unless it was refused ``again``, does not either: some servers spoil a few at any number.
        """
        if not others:  # that is no matter of the number
            self._proven = max(self._proven, min(self._halved, self.most))
            return max(number, self._proven)
        if ticket.era < self._cut_at:
            self._proven = min(self._proven, others)
            return self._change(min(number, self._proven))
        self._last.append(True)
        if not again and sum(self._last) < CROWD:
            return number
        self._last.clear()
        self._halved = max(number // 2, 1)
        self._proven, self._step, self._best, self._leaps = others, 1, None, False
        self._rest()
        number = self._change(min(self._halved, self._proven))
        self._cut_at = self.era
        return number

    def _rest(self) -> None:
        self._resting = self._patience
        self._patience = min(2 * self._patience, LONGEST_PATIENCE)

    def _change(self, number: int) -> int:
        self.era += 1
        self._sent = self._answers = 0
        self._speeds = []
        return number


class _Spacing:
    """Seconds between requests to a server that takes only so many in a time."""

    def __init__(self) -> None:
        self.next = -math.inf
        """When the next may be sent."""
        self._apart = 0.0
        self._began: float | None = None  # when the requests were sent that ``_count`` counts
        self._count = 0
        self._refused_at: float | None = None
        self._enough, self._clean = 0, 0

    @property
    def probes(self) -> bool:
        """Whether one request is to find out whether the server takes any again."""
        return self._refused_at is not None

    def send(self, now: float) -> None:
        """Note a request that is sent."""
        self._began = now if self._began is None else self._began
        self.next = now + self._apart

    def answered(self, sent: float) -> None:
        """Note an answer to what was ``sent``; the first after a rest tells the server's time."""
        if self._refused_at is not None and sent >= self._refused_at:
            if self._count and self._began is not None:
                self._apart = (sent - self._began) / self._count
                self._enough, self._clean = min(max(2 * self._count, START), SLOWEST), 0
            self._began, self._count, self._refused_at = sent, 0, None
        self._count += 1
        if self._apart and self._refused_at is None and not self._count % self._enough:
            self._apart /= 1 + FASTER * 2**self._clean
            self._clean += 1
            if self._clean > UNBOUND:
                self._apart = 0.0

    def refused(self, now: float) -> None:
        """Note that the server rests from now on."""
        if self._refused_at is None:
            self._refused_at = now


def _finish(woken: "asyncio.Future[None]") -> None:
    if not woken.done():
        woken.set_result(None)

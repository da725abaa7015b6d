"""How many requests a server is sent: against servers of all limits, in a time of their own."""

import asyncio
import heapq
import random
import threading
from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.serving.limits import Allowance
from pipeline.models.serving.pace import LEAP, MOST, START, Pace, Ticket


@dataclass
class Server:
    """Takes ``holds`` requests at a time and ``allows`` in any ``window`` seconds.

    It answers ``together`` of them side by side; the others wait for their turn.
    """

    holds: int = 10**9
    allows: int = 10**9
    window: float = 1.0
    fixed: bool = True
    """Whether windows follow one another; else the last ``window`` seconds count."""
    together: int = 10**9
    takes: float = 0.1
    """Seconds an answer."""
    tells: str = ""
    """``retry``: in how many seconds to come back; ``limits``: what it allows, in every answer."""
    now: float = 0.0
    sent: deque[float] = field(default_factory=deque)
    busy: list[float] = field(default_factory=list)
    """When those that are being answered will be."""

    def take(self) -> tuple[bool, float, float | None, Allowance]:
        """Return whether a request is taken, when it is answered, when to come back, and limits."""
        held = [end for end in self.busy if end > self.now]
        self.busy = held
        start = self.now // self.window * self.window if self.fixed else self.now - self.window
        while self.sent and (self.sent[0] < start or (not self.fixed and self.sent[0] == start)):
            self.sent.popleft()
        renewed = (start if self.fixed else self.sent[0] if self.sent else start) + self.window
        left = self.allows - len(self.sent)
        if len(held) >= self.holds or left <= 0:
            after = renewed - self.now if left <= 0 and self.tells == "retry" else None
            return (
                False,
                self.now + 0.001,
                after,
                self._told(0, renewed) if left <= 0 else Allowance(),
            )
        self.sent.append(self.now)
        free = sorted(held)[-self.together] if len(held) >= self.together else self.now
        self.busy.append(free + self.takes)
        return True, free + self.takes, None, self._told(left - 1, renewed)

    def _told(self, left: int, renewed: float) -> Allowance:
        return Allowance(left, renewed - self.now) if self.tells == "limits" else Allowance()


@dataclass
class Told:
    """What became of a number of requests."""

    seconds: float
    refused: int
    numbers: list[int]
    """The number in flight after each answer."""


def ask(server: Server, count: int, number: int | None = None) -> Told:
    """Have ``count`` requests answered; what is refused is asked again."""
    pace = Pace(lambda times: min(0.5 * 2.0 ** (times - 1), 30), clock=lambda: server.now)
    if number is not None:
        pace.keep(number)
    coming: list[tuple[float, int, Ticket, bool, float | None, Allowance]] = []
    waiting, refused, numbers, order = count, 0, [], 0
    while waiting or coming:
        wait = pace.wait() if waiting else float("inf")
        if wait <= 0:
            waiting, order = waiting - 1, order + 1
            taken, at, after, allowance = server.take()
            heapq.heappush(coming, (at, order, pace.take(), taken, after, allowance))
            continue
        if not coming or server.now + wait < coming[0][0]:
            assert wait < 3600, "nobody is waited for"
            server.now += wait
            continue
        server.now, _, ticket, taken, after, allowance = heapq.heappop(coming)
        pace.told({"requests": allowance})
        if taken:
            pace.answered(ticket)
            numbers.append(pace.number)
        else:
            pace.refused(ticket, after)
            refused, waiting = refused + 1, waiting + 1
        pace.leave(ticket)
        assert 1 <= pace.number <= MOST
    assert pace.refusals == refused
    return Told(server.now, refused, numbers)


@given(st.integers(1, 80), st.floats(0.01, 5), st.sampled_from([None, 64, 256]))
def test_whatever_a_server_holds_all_is_answered_and_the_number_comes_down_to_it(
    holds: int, takes: float, number: int | None
) -> None:
    told = ask(Server(holds=holds, takes=takes), 1500, number)
    last = told.numbers[-750:]
    assert max(last) <= max(holds + 1, START)
    assert sum(last) / len(last) >= 0.6 * min(holds, number or MOST)
    # One leap of the number may go far beyond what it holds.
    leap = (LEAP - 1) * holds if number is None else 0
    assert told.refused <= 0.05 * 1500 + 2 * (number or START) + leap


@given(
    st.integers(1, 60),
    st.floats(0.5, 60),
    st.booleans(),
    st.sampled_from(["", "retry", "limits"]),
    st.floats(0.001, 3),
)
def test_whatever_a_server_allows_in_a_time_all_is_answered_with_few_refusals(
    allows: int, window: float, fixed: bool, tells: str, takes: float
) -> None:
    server = Server(allows=allows, window=window, fixed=fixed, tells=tells, takes=takes)
    told = ask(server, 6 * allows + 5)
    # Of what is refused, a part is told by the first burst, and a part by the silence after it.
    few = {"": 100, "retry": 100, "limits": 2 * START}[tells]
    assert told.refused <= few + allows
    fastest = (6 * allows + 5) * max(window / allows, takes / MOST)
    assert told.seconds <= 4 * fastest + 4 * window + 240 + 20 * takes


@pytest.mark.parametrize(("tells", "most"), [("limits", 0), ("retry", 20), ("", 30)])
@pytest.mark.parametrize("fixed", [True, False])
def test_twenty_a_minute_refuse_few_of_125(tells: str, most: int, fixed: bool) -> None:
    told = ask(Server(allows=20, window=60, fixed=fixed, tells=tells, takes=0.5), 125)
    assert told.refused <= most
    assert told.seconds <= 8.5 * 60


def test_a_server_that_takes_one_at_a_time_is_not_sent_more_than_it_answers() -> None:
    for together in (1, 4):
        assert max(ask(Server(together=together), 2000).numbers) <= 2 * START
    one = ask(Server(holds=1), 200)
    assert max(one.numbers[20:]) <= 2
    assert one.refused <= 4 * START


@dataclass
class Batching:
    """Answers ``n`` requests at a time at ``n / (alone + beside * n)`` a second, as batches do.

    Without ``beside`` any number is answered as quickly as one. Answers differ in length.
    """

    alone: float
    beside: float = 0.0
    now: float = 0.0
    done: float = 0.0  # of an answer of the usual length, since the first began
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    ends: list[tuple[float, int, Ticket]] = field(default_factory=list)
    count: int = 0

    def begin(self, ticket: Ticket) -> None:
        """Take a request."""
        self.count += 1
        end = self.done + self.chance.lognormvariate(0, 0.3)
        heapq.heappush(self.ends, (end, self.count, ticket))

    def end(self) -> Ticket:
        """Go on to the next answer."""
        done, _, ticket = self.ends[0]
        self.now += (done - self.done) * (self.alone + self.beside * len(self.ends))
        self.done = done
        heapq.heappop(self.ends)
        return ticket


def batched(server: Batching, count: int, number: int | None = None) -> Told:
    """Have ``count`` requests answered, none of which is refused."""
    pace, numbers = Pace(lambda times: 1.0, clock=lambda: server.now), []
    if number is not None:
        pace.keep(number)
    while len(numbers) < count:
        while count > len(numbers) + pace.in_flight and pace.wait() <= 0:
            server.begin(pace.take())
        ticket = server.end()
        pace.answered(ticket)
        pace.leave(ticket)
        numbers.append(pace.number)
    return Told(server.now, 0, numbers)


@pytest.mark.parametrize("together", [1, 4, 32, 64])
def test_a_server_is_as_busy_as_with_the_best_number(together: int) -> None:
    best = min(ask(Server(together=together), 12_000, n).seconds for n in (1, 4, 32, 64, 256))
    assert ask(Server(together=together), 12_000).seconds <= best / 0.95


@pytest.mark.parametrize(
    ("alone", "beside", "count"),
    # vLLM on two cores, on a GPU, and with room for any number; then where more gains nothing.
    [
        *[(0.055, 0.0021, 2372), (0.3, 0.0008, 12_000), (1.0, 0.0, 16_000)],
        *[(0.02, 0.03, 2372), (0.001, 0.1, 2372)],
    ],
)
def test_asking_costs_little_where_answers_differ(alone: float, beside: float, count: int) -> None:
    numbers = (1, 8, 64, 256)
    best = min(batched(Batching(alone, beside), count, n).seconds for n in numbers)
    assert batched(Batching(alone, beside), count).seconds <= best / 0.95


def test_most_answers_that_fail_do_not_keep_the_number() -> None:
    server, kept = Batching(1.0), []
    pace = Pace(lambda times: 1.0, clock=lambda: server.now)
    for turn in range(3000):
        while pace.wait() <= 0:
            server.begin(pace.take())
        ticket = server.end()
        if turn % 4 == 0 or pace.number <= START:  # the others end in HTTP 500, say
            pace.answered(ticket)
        pace.leave(ticket)
        kept.append(pace.number)
    assert max(kept) > 2 * START


def test_a_fixed_number_is_kept_and_never_exceeded() -> None:
    assert set(ask(Server(), 500, 7).numbers) == {7}
    assert max(ask(Server(holds=5), 500, 7).numbers) <= 7


def test_one_refusal_of_many_requests_halves_once() -> None:
    pace = Pace(lambda times: 1.0)
    pace.keep(64)
    tickets = [pace.take() for _ in range(64)]
    for ticket in tickets[:8]:
        pace.refused(ticket)
        pace.leave(ticket)
    assert pace.number == 32
    assert pace.in_flight == 56
    pace.leave(tickets[8])
    pace.leave(tickets[8])  # once is enough
    assert pace.in_flight == 55


def test_a_few_refusals_among_many_answers_are_chance() -> None:
    pace = Pace(lambda times: 1.0)
    pace.keep(64)
    for turn in range(300):
        tickets = [pace.take() for _ in range(64 - pace.in_flight)]
        for place, ticket in enumerate(tickets[:32]):
            if place == 5 and turn % 2:
                assert pace.refused(ticket)  # the server holds older ones
            else:
                pace.answered(ticket)
            pace.leave(ticket)
    assert pace.number == 64
    ticket = pace.take()
    pace.refused(ticket, again=True)  # but not if it is the same one
    assert pace.number == 32


def test_a_server_that_asks_for_more_time_than_a_request_has_is_not_waited_for() -> None:
    now = 0.0
    pace = Pace(lambda times: 1.0, longest_rest=600, clock=lambda: now)
    for after, rest in ((3600, 1), (30, 30)):
        ticket = pace.take()
        pace.refused(ticket, after=after)
        pace.leave(ticket)
        assert pace.rest() == rest
    pace.told({"requests": Allowance(0, 86_400)})
    now = 31.0
    assert pace.wait() == 0


def test_threads_share_one_number() -> None:
    pace, together, most = Pace(lambda times: 0.0), threading.Lock(), [0, 0]
    pace.keep(3)

    def asks() -> None:
        async def one() -> None:
            ticket = await pace.enter()
            with together:
                most[0] += 1
                most[1] = max(most)
            await asyncio.sleep(0.001)
            with together:
                most[0] -= 1
            pace.leave(ticket)

        async def several() -> None:
            await asyncio.gather(*(one() for _ in range(20)))

        asyncio.run(several())

    threads = [threading.Thread(target=asks) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert pace.in_flight == 0
    assert most[1] <= 3


def test_who_is_cancelled_while_waiting_takes_no_place() -> None:
    async def run() -> None:
        pace = Pace(lambda times: 0.0)
        pace.keep(1)
        held = await pace.enter()
        first, second = (asyncio.create_task(pace.enter()) for _ in range(2))
        await asyncio.sleep(0)
        pace.leave(held)  # it is the first one's turn
        first.cancel()
        await second
        assert pace.in_flight == 1

    asyncio.run(asyncio.wait_for(run(), 10))

"""What is done with each peer. Every function is one round of one peer, in a fresh store."""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import team
from contestants import DESCRIPTION, REQUIREMENTS, RESULT, task_ids
from peers import Connect, Hold, Peer, Ref, Session, Task

# The names of the figures, as they stand in the tables and in the JSON.
PUBLISH, BY_ID, BY_ID_READ = "publish", "claim by id", "claim by id, task read"
NEXT, COMPLETE, MISS = "claim next", "complete", "miss"
FIRST = "first claim next"
OTHER_TASKS_SEED = 2


class Count(NamedTuple):
    """What the workers got, held against what was published."""

    doubles: int = 0  # claims of a task that somebody had already been given
    lost: int = 0  # tasks that were given to nobody

    @classmethod
    def of(cls, published: Iterable[Ref], got: Iterable[Ref]) -> Count:
        """Count them."""
        times = Counter(got)
        missing = set(published) - set(times)
        return cls(sum(times.values()) - len(times), len(missing))


class Round(NamedTuple):
    """One round's figures, by name, and what was counted."""

    figures: dict[str, float]
    count: Count = Count()


def tasks_of(number: int, size_bytes: int = 0) -> list[Task]:
    """So many tasks; of a fleet's usual size, or so that one takes about `size_bytes` as JSON."""
    description = DESCRIPTION + "." * max(0, size_bytes - 600)
    return [
        {"task_id": task_id, "description": description, "requirements": REQUIREMENTS}
        for task_id in task_ids(number)
    ]


# One process -------------------------------------------------------------------------------------


def one_process(
    peer: Peer, connect: Connect, settle: Callable[[], None], tasks: Sequence[Task]
) -> Round:
    """A store's life: all tasks are published, claimed in all ways, completed. µs per operation."""
    figures: dict[str, float] = {}
    holds: list[Hold] = []
    session = connect()
    refs = _timed(figures, PUBLISH, session.publish, tasks)
    settle()
    waiting = list(refs)
    if peer.has_ids:
        part = len(refs) // 3 if peer.has_next else len(refs) // 2
        holds += _timed(figures, BY_ID, session.claim, refs[:part])
        settle()
        reading = _claiming_and_reading(session)
        holds += _timed(figures, BY_ID_READ, reading, refs[part : 2 * part])
        waiting = refs[2 * part :]
    if peer.has_next:
        settle()
        next_ = session.claim_next
        holds += _timed(figures, NEXT, lambda _: next_(), waiting)
        waiting = []
    got = [session.ref(hold) for hold in holds if hold is not None]
    if peer.completes:
        settle()
        _timed(figures, COMPLETE, lambda hold: session.complete(hold, RESULT), holds)
    _miss(figures, peer, session, len(refs) // 3)
    session.close()
    return Round(figures, Count.of(refs[: len(refs) - len(waiting)], got))


def _timed(
    figures: dict[str, float], name: str, verb: Callable[[Any], Any], items: Sequence[Any]
) -> list[Any]:
    if not items:
        return []
    started_ns = time.perf_counter_ns()
    results = [verb(item) for item in items]
    figures[name] = (time.perf_counter_ns() - started_ns) / len(items) / 1000
    return results


def _claiming_and_reading(session: Session) -> Callable[[Ref], Hold]:
    def claim_and_read(ref: Ref) -> Hold:
        hold = session.claim(ref)
        if hold is not None:
            session.read(hold)
        return hold

    return claim_and_read


def _miss(figures: dict[str, float], peer: Peer, session: Session, number: int) -> None:
    """Tasks that never were, or, where tasks have no ids, the next of none."""
    if peer.has_ids and peer.completes:
        others: list[Any] = list(task_ids(number, OTHER_TASKS_SEED))
    elif peer.has_next:
        others = [None] * number
    else:
        return
    if any(_timed(figures, MISS, session.won, others)):
        raise RuntimeError(f"{peer.name} has handed out a task that was never published")


# Teams -------------------------------------------------------------------------------------------


def drain_next(
    peer: Peer, connect: Connect, settle: Callable[[], None], tasks: Sequence[Task], run: Team
) -> Round:
    """All workers claim whatever is next until nothing is. Tasks per second."""
    refs = _filled(peer, connect, settle, tasks)

    def prepare(number: int) -> team.Work:
        session = connect()

        def work() -> list[Ref]:
            got = []
            while (hold := session.claim_next()) is not None:
                got.append(session.ref(hold))
            return got

        return work

    return _team_round(run, prepare, refs)


def drain_by_id(
    peer: Peer, connect: Connect, settle: Callable[[], None], tasks: Sequence[Task], run: Team
) -> Round:
    """Each worker claims its own share of the tasks, by id. Tasks per second."""
    refs = _filled(peer, connect, settle, tasks)

    def prepare(number: int) -> team.Work:
        session = connect()
        mine = refs[number :: run.workers]

        def work() -> list[Ref]:
            holds = [session.claim(ref) for ref in mine]
            return [session.ref(hold) for hold in holds if hold is not None]

        return work

    return _team_round(run, prepare, refs)


class Team(NamedTuple):
    """So many workers of one kind."""

    workers: int
    run: Callable[[int, team.Prepare], team.Outcome]  # team.processes or team.threads


def _team_round(run: Team, prepare: team.Prepare, refs: Sequence[Ref]) -> Round:
    elapsed_s, got = run.run(run.workers, prepare)
    every = [ref for part in got for ref in part]
    return Round({str(run.workers): len(refs) / elapsed_s}, Count.of(refs, every))


def race(
    peer: Peer, connect: Connect, settle: Callable[[], None], tasks: Sequence[Task], workers: int
) -> Round:
    """All workers try for one task, and then for the next. ms until the last has its answer.

    The first race is a practice: a forked process is slow when it does something for the first
    time, and that would be all there is to see.
    """
    by_id = peer.has_ids or not peer.has_next
    refs: list[Ref] = _filled(peer, connect, settle, tasks if by_id else [])

    def prepare(number: int) -> team.Work:
        session = connect()
        races = itertools.count()

        def work() -> list[int]:
            race = next(races)
            return [race] if session.won(refs[race] if by_id else None) else []

        return work

    def before(number: int) -> None:
        if not by_id:
            # Only now, after the fork: or they would all go for different ones.
            _filled(peer, connect, settle, tasks[number : number + 1])

    outcomes = team.repeatedly(workers, prepare, len(tasks), before)
    winners = [race for outcome in outcomes for got in outcome.got for race in got]
    figure = statistics.median(outcome.elapsed_s for outcome in outcomes[1:]) * 1000
    is_floor = peer.floor_of is not None
    count = Count() if is_floor else Count.of(range(len(tasks)), winners)
    return Round({"until the last loser knows": figure}, count)


def _filled(
    peer: Peer, connect: Connect, settle: Callable[[], None], tasks: Sequence[Task]
) -> list[Ref]:
    session = connect()
    refs = peer.fill(session, tasks)
    session.close()  # before any fork: a child must not inherit a connection
    settle()
    return refs


# Pool sizes --------------------------------------------------------------------------------------


class FullStore:
    """A store with many waiting tasks, of which each round claims a few."""

    def __init__(
        self, peer: Peer, connect: Connect, settle: Callable[[], None], tasks: Sequence[Task]
    ) -> None:
        self._peer, self._connect = peer, connect
        self._refs = _filled(peer, connect, settle, tasks)
        self._got: list[Ref] = []
        self._session: Session | None = None

    def round(self, claims: int) -> Round:
        """Claim so many that come next, and so many by id. µs per claim."""
        figures: dict[str, float] = {}
        holds: list[Hold] = []
        if self._session is None:
            self._session = self._connect()
            if self._peer.has_next:
                # What a peer has to read before it can hand out anything is the first claim's.
                holds += _timed(figures, FIRST, self._next, [None])
        if self._peer.has_next:
            holds += _timed(figures, NEXT, self._next, range(claims))
        got = [self._session.ref(hold) for hold in holds if hold is not None]
        if self._peer.has_ids:
            taken = {*self._got, *got}
            left = [ref for ref in self._refs if ref not in taken]
            wanted = random.Random(claims).sample(left, min(claims, len(left)))
            by_id = _timed(figures, BY_ID, self._session.claim, wanted)
            holds += by_id
            got += [self._session.ref(hold) for hold in by_id if hold is not None]
        doubles = len(got) - len(set(got) - set(self._got))
        self._got += got
        return Round(figures, Count(doubles, lost=holds.count(None)))

    def _next(self, _: object) -> Hold:
        assert self._session is not None
        return self._session.claim_next()

    def close(self) -> None:
        """Let go of the store."""
        if self._session is not None:
            self._session.close()

"""The rounds: in each, every peer does the same, in an order that changes from round to round."""

from __future__ import annotations

import gc
import random
import statistics
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import team
import workloads
from fresh import FreshDirectories
from machine import Place
from peers import Connect, Peer
from workloads import Count, Round

ONE_PROCESS, TASK_SIZES, POOL_SIZES, RACE = "one process", "task sizes", "pool sizes", "race"
PROCESSES, THREADS = "processes", "threads"
WORKLOADS = (ONE_PROCESS, PROCESSES, THREADS, RACE, POOL_SIZES, TASK_SIZES)

LARGEST_SIDE_BY_SIDE = 10_000  # tasks in a pool


class Plan(NamedTuple):
    """How much of everything."""

    rounds: int
    tasks: int  # of a store in `ONE_PROCESS`
    team_rounds: int
    team_tasks: int
    team_tasks_on_disk: int
    workers: tuple[int, ...]
    race_rounds: int
    races: int  # a round, the first of them for practice
    racers: int
    pool_rounds: int
    pool_claims: int  # of each kind, a round
    pool_sizes: tuple[int, ...]
    largest_on_disk: int  # more files than that take a disk too long
    task_rounds: int
    tasks_of_a_size: int
    task_sizes: tuple[int, ...]  # bytes of JSON


QUICK = Plan(
    rounds=3,
    tasks=120,
    team_rounds=1,
    team_tasks=2_000,
    team_tasks_on_disk=400,
    workers=(1, 8),
    race_rounds=1,
    races=6,
    racers=32,
    pool_rounds=2,
    pool_claims=20,
    pool_sizes=(100, 1_000),
    largest_on_disk=1_000,
    task_rounds=1,
    tasks_of_a_size=12,
    task_sizes=(600, 1_000_000),
)
FULL = Plan(
    rounds=7,
    tasks=300,
    team_rounds=3,
    team_tasks=4_000,
    team_tasks_on_disk=1_000,
    workers=(1, 2, 8),
    race_rounds=5,
    races=11,
    racers=32,
    pool_rounds=3,
    pool_claims=30,
    pool_sizes=(100, 1_000, 10_000, 100_000, 1_000_000),
    largest_on_disk=10_000,
    task_rounds=5,
    tasks_of_a_size=30,
    task_sizes=(600, 10_000, 100_000, 1_000_000),
)


class Result(NamedTuple):
    """One cell of a table."""

    place: str
    workload: str
    figure: str
    peer: str
    unit: str
    median: float
    rounds: list[float]
    doubles: int
    lost: int


class Failure(NamedTuple):
    """A peer that could not do a workload."""

    place: str
    workload: str
    peer: str
    error: str


class Comparison:
    """Everything that is measured in one place.

    Parameters
    ----------
    place : Place
        Where.
    peers : sequence of Peer
        Who; all can be had.
    plan : Plan
        How much.
    """

    def __init__(self, place: Place, peers: Sequence[Peer], plan: Plan) -> None:
        self._place, self._plan = place, plan
        self._peers = list(peers)
        self._directories = FreshDirectories(place)
        self.failures: list[Failure] = []

    def run(self, wanted: Sequence[str]) -> Iterator[Result]:
        """Measure the workloads of these names; each result comes when it is there."""
        measure = {
            ONE_PROCESS: self._one_process,
            PROCESSES: lambda: self._teams(PROCESSES, team.processes),
            THREADS: lambda: self._teams(THREADS, team.threads),
            RACE: self._race,
            POOL_SIZES: self._pool_sizes,
            TASK_SIZES: self._task_sizes,
        }
        try:
            with self._servers():
                for name in WORKLOADS:
                    if name in wanted:
                        yield from measure[name]()
        finally:
            self._directories.close()

    @contextmanager
    def _servers(self) -> Iterator[None]:
        started: list[Peer] = []
        try:
            for peer in self._peers:
                peer.start(self._directories.new())
                started.append(peer)
            yield
        finally:
            for peer in started:
                peer.stop()

    # The workloads ------------------------------------------------------------------------------

    def _one_process(self) -> Iterator[Result]:
        tasks = workloads.tasks_of(self._plan.tasks)
        rivals = [peer for peer in self._peers if _in_one_process(peer)]

        def one_round(peer: Peer) -> Round:
            return self._in_a_store(peer, workloads.one_process, tasks)

        yield from self._measure(ONE_PROCESS, "µs", rivals, self._plan.rounds, one_round)

    def _teams(
        self, kind: str, run: Callable[[int, team.Prepare], team.Outcome]
    ) -> Iterator[Result]:
        plan = self._plan
        number = plan.team_tasks if self._place.is_memory else plan.team_tasks_on_disk
        tasks = workloads.tasks_of(number)
        peers = [peer for peer in self._peers if peer.floor_of is None]
        by_id = [peer for peer in peers if peer.has_ids and not peer.drains_only]
        next_ = [peer for peer in peers if peer.has_next and not peer.reads_all]
        for workers in self._plan.workers:
            members = workloads.Team(workers, run)
            for how, workload, rivals in (
                ("next", workloads.drain_next, next_),
                ("by id", workloads.drain_by_id, by_id),
            ):

                def one_round(
                    peer: Peer, workload: Any = workload, members: workloads.Team = members
                ) -> Round:
                    return self._in_a_store(peer, workload, tasks, members)

                name = f"{kind}, {how}"
                yield from self._measure(
                    name, "tasks/s", rivals, self._plan.team_rounds, one_round, warm_up=False
                )

    def _race(self) -> Iterator[Result]:
        tasks = workloads.tasks_of(self._plan.races)
        rivals = [
            peer for peer in self._peers if not peer.drains_only and peer.floor_of in (None, RACE)
        ]

        def one_round(peer: Peer) -> Round:
            return self._in_a_store(peer, workloads.race, tasks, self._plan.racers)

        rounds = self._plan.race_rounds
        yield from self._measure(RACE, "ms", rivals, rounds, one_round, warm_up=False)

    def _task_sizes(self) -> Iterator[Result]:
        rivals = [peer for peer in self._peers if _in_one_process(peer) and not peer.floor_of]
        for size_bytes in self._plan.task_sizes:
            tasks = workloads.tasks_of(self._plan.tasks_of_a_size, size_bytes)

            def one_round(peer: Peer, tasks: Any = tasks) -> Round:
                return self._in_a_store(peer, workloads.one_process, tasks)

            name = f"{size_bytes:,} B"
            for result in self._measure(
                TASK_SIZES, "µs", rivals, self._plan.task_rounds, one_round
            ):
                if result.figure != workloads.MISS:
                    workload = f"{TASK_SIZES}: {result.figure}"
                    yield result._replace(workload=workload, figure=name)

    def _pool_sizes(self) -> Iterator[Result]:
        for size in self._plan.pool_sizes:
            if not self._place.is_memory and size > self._plan.largest_on_disk:
                continue
            tasks = workloads.tasks_of(size)
            rivals = [
                peer
                for peer in self._peers
                if _in_one_process(peer) and not peer.floor_of and size <= peer.largest_pool
            ]
            # So many files of all of them at once would leave no room for anybody else's.
            side_by_side = size <= LARGEST_SIDE_BY_SIDE
            for group in [rivals] if side_by_side else [[peer] for peer in rivals]:
                for result in self._measure_full_stores(group, tasks):
                    workload = f"{POOL_SIZES}: {result.figure}"
                    yield result._replace(workload=workload, figure=f"{size:,}")

    def _measure_full_stores(self, rivals: list[Peer], tasks: Any) -> Iterator[Result]:
        stores: dict[str, workloads.FullStore] = {}
        paths = []
        claims = min(self._plan.pool_claims, len(tasks) // (3 * self._plan.pool_rounds))

        def one_round(peer: Peer) -> Round:
            if peer.name not in stores:
                path = self._directories.new()
                paths.append(path)
                connect = peer.new_store(path)
                settle = self._directories.settle
                stores[peer.name] = workloads.FullStore(peer, connect, settle, tasks)
            return stores[peer.name].round(claims)

        rounds = self._plan.pool_rounds
        yield from self._measure(POOL_SIZES, "µs", rivals, rounds, one_round, warm_up=False)
        for store in stores.values():
            store.close()
        for path in paths:
            self._directories.done_with(path)

    # ----------------------------------------------------------------------------------------------

    def _in_a_store(self, peer: Peer, workload: Callable[..., Round], *arguments: Any) -> Round:
        path = self._directories.new()
        connect: Connect = peer.new_store(path)
        found = workload(peer, connect, self._directories.settle, *arguments)
        self._directories.done_with(path)
        return found

    def _measure(
        self,
        workload: str,
        unit: str,
        rivals: list[Peer],
        rounds: int,
        one_round: Callable[[Peer], Round],
        warm_up: bool = True,
    ) -> Iterator[Result]:
        """So many rounds of all; a peer that fails is left out of what comes after."""
        found: dict[str, list[Round]] = {peer.name: [] for peer in rivals}
        rivals = list(rivals)
        for number in range(-1 if warm_up else 0, rounds):
            # The same orders in each run. Not rotated: then each would always follow the same one,
            # and bear what that one leaves to the disk.
            for peer in random.Random(number).sample(rivals, len(rivals)):
                _say(f"{self._place.name}, {workload}: {number + 1} of {rounds}, {peer.name}")
                try:
                    one = _without_garbage_collection(one_round, peer)
                except Exception as error:
                    rivals.remove(peer)
                    self._fail(workload, peer, error)
                    continue
                if number >= 0:
                    found[peer.name].append(one)
        _say("")
        for name, its_rounds in found.items():
            yield from _results(self._place.name, workload, unit, name, its_rounds)

    def _fail(self, workload: str, peer: Peer, error: Exception) -> None:
        said = f"{type(error).__name__}: {error}".strip()
        self.failures.append(Failure(self._place.name, workload, peer.name, said))
        traceback.print_exception(error, limit=-6, file=sys.stderr)


def _say(doing: str) -> None:
    """On a terminal, let a line say how far it is; the report goes to standard output."""
    if sys.stderr.isatty():
        print(f"\033[K{doing}", end="\r", file=sys.stderr, flush=True)


def _in_one_process(peer: Peer) -> bool:
    return not peer.drains_only and peer.floor_of in (None, ONE_PROCESS)


def _without_garbage_collection(one_round: Callable[[Peer], Round], peer: Peer) -> Round:
    gc.collect()
    gc.disable()
    try:
        return one_round(peer)
    finally:
        gc.enable()


def _results(
    place: str, workload: str, unit: str, peer: str, rounds: list[Round]
) -> Iterator[Result]:
    figures: dict[str, list[float]] = {}
    for one in rounds:
        for figure, value in one.figures.items():
            figures.setdefault(figure, []).append(value)
    count = Count(sum(one.count.doubles for one in rounds), sum(one.count.lost for one in rounds))
    for figure, values in figures.items():
        median = statistics.median(values)
        yield Result(place, workload, figure, peer, unit, median, values, *count)

"""What choosing a task costs, beyond claiming it; prints Markdown.

    python benchmarks/bench_selection.py [--tasks 100,10000,100000] [--dir DIR] [--disk DIR]
        [--only steady,sizes,waiting,draining,batches]

All ratios are of one run: in each round every contestant claims a few tasks of one pool, in an
order that changes from round to round. A million tasks take minutes to publish and 6 GB of memory
(--only sizes --tasks 100,10000,1000000), and so are not in the default.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import multiprocessing
import multiprocessing.synchronize
import random
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from machine import describe_load, describe_machine

from fastclaim import TaskPool

ORDERS = ("any", "priority", "oldest")
SKILLS = ["python"]
CLAIMS_A_TURN = 20
ROUNDS = 15
DRAININGS = 7
BATCH = 64


def main() -> None:
    """Run all and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", default="100,10000,100000", help="pool sizes")
    parser.add_argument(
        "--only", default="steady,sizes,waiting,draining,batches", help="what to measure"
    )
    parser.add_argument("--dir", default="/dev/shm", help="a directory in memory")
    parser.add_argument("--disk", default=tempfile.gettempdir(), help="a directory on a disk")
    arguments = parser.parse_args()
    numbers = [int(number) for number in arguments.tasks.split(",")]
    only = arguments.only.split(",")
    print(describe_machine())
    gc.disable()
    if "steady" in only:
        print("\n| tasks | by id, us | any | priority | oldest |")
        print("|--:|--:|--:|--:|--:|")
        for number in numbers:
            print(steady_state(number, arguments.dir))
    if "sizes" in only:
        print("\n| order | tasks | us | times the first | first claim, ms | buffer, MiB |")
        print("|--|--:|--:|--:|--:|--:|")
        for order in ("any", "priority"):
            print("\n".join(sizes(numbers, order, arguments.dir)))
    if "waiting" in only:
        print(f"\n{waiting(arguments.dir)}")
    if "draining" in only:
        print("\n| processes | order | claims/s | most : least |\n|--:|--|--:|--:|")
        print("\n".join(draining_rounds(arguments.dir)))
    if "batches" in only:
        print("\n| on a disk | alone, us | together, us | times | published together, times |")
        print("|--|--:|--:|--:|--:|")
        print("\n".join(batches(arguments.disk)))
    print(f"\n{describe_load()}")


def publish(pool: TaskPool, ids: Iterable[str]) -> None:
    """Tasks like those of a team of agents."""
    remaining = iter(ids)
    while piece := list(itertools.islice(remaining, 1000)):
        pool.publish_many(
            (
                {
                    "task_id": task_id,
                    "description": "do something useful " * 20,
                    "requirements": SKILLS,
                    "priority": random.randrange(5),
                    "created_at": time.time(),
                }
                for task_id in piece
            ),
            if_exists="replace",
        )


def steady_state(number: int, directory: str) -> str:
    """Microseconds a claim in a pool that stays as large as it is."""
    contestants = ("by id", *ORDERS)
    with tempfile.TemporaryDirectory(dir=directory) as base:
        # A pool for each: nobody hears of what is published for another.
        fillers = {order: TaskPool(f"{base}/{order}", durability="none") for order in contestants}
        pools = {order: TaskPool(f"{base}/{order}") for order in contestants}
        for filler in fillers.values():
            publish(filler, [f"task-{n:07}" for n in range(number)])
        for order in ORDERS:
            pools[order].claim_next("a", SKILLS, order=order)
        times_us: dict[str, list[float]] = {order: [] for order in contestants}
        for turn in range(ROUNDS):
            for order in random.sample(contestants, len(contestants)):
                # What is claimed in this turn is published before it: the pool keeps its size, and
                # the time to hear of that much is part of what is measured.
                ids = [f"new-{turn}-{n}" for n in range(CLAIMS_A_TURN)]
                publish(fillers[order], ids)
                times_us[order].append(_claim_all(pools[order], order, ids))
    medians = {order: statistics.median(times) for order, times in times_us.items()}
    ratios = " | ".join(f"{medians[order] / medians['by id']:.2f}" for order in ORDERS)
    return f"| {number:,} | {medians['by id']:.1f} | {ratios} |"


def sizes(numbers: list[int], order: str, directory: str) -> Iterator[str]:
    """One order in pools of several sizes, turn by turn; each keeps its size."""
    first_ms, buffer_mib = {}, {}
    times_us: dict[int, list[float]] = {number: [] for number in numbers}
    with tempfile.TemporaryDirectory(dir=directory) as base:
        fillers = {number: TaskPool(f"{base}/{number}", durability="none") for number in numbers}
        pools = {number: TaskPool(f"{base}/{number}") for number in numbers}
        for number in numbers:
            publish(fillers[number], (f"task-{n:07}" for n in range(number)))
            before_mib, started_s = _resident_mib(), time.perf_counter()
            pools[number].claim_next("a", SKILLS, order=order)
            first_ms[number] = (time.perf_counter() - started_s) * 1e3
            buffer_mib[number] = _resident_mib() - before_mib
        for turn in range(4 * ROUNDS):
            for number in random.sample(numbers, len(numbers)):
                ids = [f"new-{turn}-{n}" for n in range(CLAIMS_A_TURN)]
                publish(fillers[number], ids)
                times_us[number].append(_claim_all(pools[number], order, ids))
    medians = {number: statistics.median(times) for number, times in times_us.items()}
    for number in numbers:
        ratio = medians[number] / medians[numbers[0]]
        yield (
            f"| {order} | {number:,} | {medians[number]:.1f} | {ratio:.2f}"
            f" | {first_ms[number]:,.1f} | {buffer_mib[number]:.0f} |"
        )


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def _claim_all(pool: TaskPool, order: str, ids: list[str]) -> float:
    started_s = time.perf_counter()
    if order == "by id":
        for task_id in ids:
            pool.claim(task_id, "a")
    else:
        for _ in ids:
            assert pool.claim_next("a", SKILLS, order=order) is not None
    return (time.perf_counter() - started_s) / len(ids) * 1e6


def waiting(directory: str) -> str:
    """From just before a publication to owning the task, in another thread."""
    times_us = []
    with tempfile.TemporaryDirectory(dir=directory) as base:
        pool, publisher = TaskPool(base), TaskPool(base)
        for number in range(60):
            owned_s: list[float] = []

            def wait(owned_s: list[float] = owned_s) -> None:
                claim = pool.claim_next("a", wait=10)
                owned_s.append(time.perf_counter())
                assert claim is not None

            thread = threading.Thread(target=wait)
            thread.start()
            time.sleep(0.01)
            started_s = time.perf_counter()
            publisher.publish(f"x{number}")
            thread.join()
            times_us.append((owned_s[0] - started_s) * 1e6)
    return (
        f"A waiting agent owns a task {statistics.median(times_us):,.0f} us (median) after its"
        " publication began."
    )


def draining_rounds(directory: str) -> Iterator[str]:
    """Two processes and eight, in turn."""
    contestants = [(processes, order) for processes in (2, 8) for order in ("any", "priority")]
    rounds: dict[tuple[int, str], list[tuple[float, float]]] = {one: [] for one in contestants}
    _import_all(directory)
    for _ in range(DRAININGS):
        for one in random.sample(contestants, len(contestants)):
            rounds[one].append(draining(*one, directory))
    for one, measured in rounds.items():
        rate, fairness = (statistics.median(values) for values in zip(*measured, strict=True))
        yield f"| {one[0]} | {one[1]} | {rate:,.0f} | {fairness:.1f} |"


def _import_all(directory: str) -> None:
    """Import what verbs import when they first need it, for processes that will be forked."""
    with tempfile.TemporaryDirectory(dir=directory) as base:
        pool = TaskPool(base)
        publish(pool, ["x"])
        while pool.claim_next("a", SKILLS) is not None:
            pass


def draining(processes: int, order: str, directory: str) -> tuple[float, float]:
    """Processes that empty one pool: claims a second, and the most of one to the least of one."""
    with tempfile.TemporaryDirectory(dir=directory) as base:
        publish(TaskPool(base, durability="none"), [f"x{n}" for n in range(12_000)])
        context = multiprocessing.get_context("fork")
        start, end = context.Barrier(processes + 1), context.Barrier(processes + 1)
        counts = context.SimpleQueue()
        agents = [
            context.Process(target=_drain, args=(base, order, f"a{n}", start, end, counts))
            for n in range(processes)
        ]
        for agent in agents:
            agent.start()
        start.wait()
        started_s = time.perf_counter()
        shares = [counts.get() for _ in agents]
        elapsed_s = time.perf_counter() - started_s
        end.wait()
        for agent in agents:
            agent.join()
    return sum(shares) / elapsed_s, max(shares) / max(1, min(shares))


def _drain(
    base: str,
    order: str,
    agent_id: str,
    start: multiprocessing.synchronize.Barrier,
    end: multiprocessing.synchronize.Barrier,
    counts: multiprocessing.SimpleQueue[int],
) -> None:
    pool = TaskPool(base)
    pool.claim_next(agent_id, SKILLS, order=order)  # a first look
    start.wait()
    count = 0
    while pool.claim_next(agent_id, SKILLS, order=order) is not None:
        count += 1
    counts.put(count)
    end.wait()  # what a process has claimed goes to the others when it ends


def batches(directory: str) -> Iterator[str]:
    """`claim_many` and `publish_many` against one by one, all on disk when they return."""
    times_us: dict[tuple[bool, str], list[float]] = {}
    with tempfile.TemporaryDirectory(dir=directory) as base:
        pools = {locks: TaskPool(f"{base}/{locks}", lock_files=locks) for locks in (True, False)}
        for turn in range(ROUNDS):
            for locks, pool in random.sample(list(pools.items()), len(pools)):
                for what in random.sample(("alone", "together"), 2):
                    ids = [f"{what}-{turn}-{n}" for n in range(BATCH)]
                    published_us, claimed_us = _batch(pool, ids, together=what == "together")
                    times_us.setdefault((locks, f"published {what}"), []).append(published_us)
                    times_us.setdefault((locks, what), []).append(claimed_us)
    medians = {key: statistics.median(times) for key, times in times_us.items()}
    for locks in (True, False):
        alone, together = medians[locks, "alone"], medians[locks, "together"]
        published = medians[locks, "published alone"] / medians[locks, "published together"]
        name = "lock files" if locks else "no lock files"
        yield (
            f"| {name} | {alone:,.0f} | {together:,.0f} | {alone / together:.1f}"
            f" | {published:.1f} |"
        )


def _batch(pool: TaskPool, ids: list[str], *, together: bool) -> tuple[float, float]:
    """Microseconds a task: to publish these, and to claim as many."""
    started_s = time.perf_counter()
    if together:
        publish(pool, ids)
    else:
        for task_id in ids:
            publish(pool, [task_id])
    published_s = time.perf_counter()
    if together:
        assert len(pool.claim_many("a", BATCH, SKILLS, order="any")) == BATCH
        claimed_us = (time.perf_counter() - published_s) / BATCH * 1e6
    else:
        claimed_us = _claim_all(pool, "any", ids)
    return (published_s - started_s) / BATCH * 1e6, claimed_us


if __name__ == "__main__":
    main()

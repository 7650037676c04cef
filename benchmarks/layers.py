"""What each layer of a claim takes, from the core's one call to `claim_task`: medians in µs.

    python benchmarks/layers.py [--dir DIR] [--tasks 400] [--rounds 9] [--threads 1,2,8]

Without lock files; each round runs all of them, in an order that changes, each on a fresh pool.
Threads share the tasks out: what the core's call gains by them is the most that a verb can.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import random
import statistics
import threading
import time
from collections.abc import Callable

from contestants import AGENT, DESCRIPTION, REQUIREMENTS, task_ids
from fresh import FreshDirectories
from machine import MEMORY_DIRECTORY, describe_load, describe_machine, place_at

from fastclaim import TaskPool, claiming, stamps, tokens


def core(pool: TaskPool, ids: list[str]) -> Callable[[], object]:
    """The core's call alone, which makes the names."""
    files = pool._directories
    tasks, hold = files.opened(), pool._hold(None, None)
    owner, claim = tasks.owner.descriptor, files.core.claim
    fixed = *stamps.claim_stamp(AGENT, hold), tokens.new_token(), True, owner, False
    return lambda: [claim(files, tasks, task_id, AGENT, *fixed) for task_id in ids]


def with_stamp(pool: TaskPool, ids: list[str]) -> Callable[[], object]:
    """The token and the stamp's text, too."""
    files, hold = pool._directories, pool._hold(None, None)
    return lambda: [
        claiming.claim(files, task_id, AGENT, hold, tokens.new_token(), 10.0, False)
        for task_id in ids
    ]


def verb(pool: TaskPool, ids: list[str]) -> Callable[[], object]:
    """`TaskPool.claim`."""
    return lambda: [pool.claim(task_id, AGENT) for task_id in ids]


def with_dict(pool: TaskPool, ids: list[str]) -> Callable[[], object]:
    """`TaskPool.claim_task`."""
    return lambda: [pool.claim_task(task_id, AGENT) for task_id in ids]


Layer = Callable[[TaskPool, list[str]], Callable[[], object]]
LAYERS = (core, with_stamp, verb, with_dict)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dir", default=MEMORY_DIRECTORY, help=f"default: {MEMORY_DIRECTORY}")
    parser.add_argument("--tasks", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", default="1", help="numbers of threads")
    arguments = parser.parse_args()
    place = place_at(arguments.dir)
    if place.unusable:
        parser.error(place.unusable)
    directories = FreshDirectories(place)
    numbers = [int(number) for number in arguments.threads.split(",")]
    contestants = list(itertools.product(LAYERS, numbers))
    took: dict[tuple[Layer, int], list[float]] = {one: [] for one in contestants}
    try:
        for number in range(arguments.rounds):
            for layer, threads in random.Random(number).sample(contestants, len(contestants)):
                path = directories.new()
                pool = TaskPool(path, lock_files=False)
                took[layer, threads].append(_once(layer, pool, arguments.tasks, threads))
                directories.done_with(path)
    finally:
        directories.close()
    print(f"{describe_machine()}; load {describe_load()}.\n")
    print(f"{'threads':16}", *(f"{threads:5}" for threads in numbers))
    for layer in LAYERS:
        figures = (statistics.median(took[layer, threads]) for threads in numbers)
        print(f"{layer.__name__:16}", *(f"{figure:5.1f}" for figure in figures))


def _once(layer: Layer, pool: TaskPool, tasks: int, number: int) -> float:
    ids = task_ids(tasks)
    for task_id in ids:
        pool.publish_task(task_id, DESCRIPTION, REQUIREMENTS)
    pool.publish("first")
    pool.claim("first", AGENT)  # what a process does once
    start = threading.Barrier(number)

    def run_one(run: Callable[[], object]) -> None:
        start.wait()
        run()

    parts = [layer(pool, ids[first::number]) for first in range(number)]
    others = [threading.Thread(target=run_one, args=(part,)) for part in parts[1:]]
    for thread in others:
        thread.start()
    gc.collect()
    gc.disable()
    try:
        start.wait()
        started_ns = time.perf_counter_ns()
        parts[0]()
        for thread in others:
            thread.join()
        return (time.perf_counter_ns() - started_ns) / tasks / 1000
    finally:
        gc.enable()


if __name__ == "__main__":
    main()

"""What each layer of a claim takes, from the core's one call to `claim_task`: medians in µs.

    python benchmarks/layers.py [--dir DIR] [--tasks 400] [--rounds 9]

Without lock files; each round runs all of them, in an order that changes, each on a fresh pool.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import time
from collections.abc import Callable

from contestants import AGENT, DESCRIPTION, REQUIREMENTS, task_ids
from fresh import FreshDirectories
from machine import MEMORY_DIRECTORY, describe_load, describe_machine, place_at

from fastclaim import TaskPool, claiming, stamps, tokens


def core(pool: TaskPool, ids: list[str]) -> Callable[[], object]:
    """The core's call alone."""
    files = pool._directories
    tasks, hold = files.opened(), pool._hold(None, None)
    stamp = stamps.claim_stamp(AGENT, hold, tokens.new_token())
    paths = [files.claim_files(task_id, AGENT) for task_id in ids]
    fixed = files.claim_directories, *stamp, files.sync, False
    owner, claim = tasks.owner.descriptor, files.core.claim
    return lambda: [claim(tasks, True, owner, path, None, to, *fixed) for path, to in paths]


def names_and_stamp(pool: TaskPool, ids: list[str]) -> Callable[[], object]:
    """The names and the stamp's text, too."""
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


LAYERS = (core, names_and_stamp, verb, with_dict)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dir", default=MEMORY_DIRECTORY, help=f"default: {MEMORY_DIRECTORY}")
    parser.add_argument("--tasks", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    place = place_at(arguments.dir)
    if place.unusable:
        parser.error(place.unusable)
    directories = FreshDirectories(place)
    took: dict[str, list[float]] = {layer.__name__: [] for layer in LAYERS}
    try:
        for number in range(arguments.rounds):
            for layer in random.Random(number).sample(LAYERS, len(LAYERS)):
                path = directories.new()
                took[layer.__name__].append(
                    _once(layer, TaskPool(path, lock_files=False), arguments.tasks)
                )
                directories.done_with(path)
    finally:
        directories.close()
    print(f"{describe_machine()}; load {describe_load()}.\n")
    for name, figures in took.items():
        print(f"{name:16} {statistics.median(figures):.1f}")


def _once(
    layer: Callable[[TaskPool, list[str]], Callable[[], object]], pool: TaskPool, tasks: int
) -> float:
    ids = task_ids(tasks)
    for task_id in ids:
        pool.publish_task(task_id, DESCRIPTION, REQUIREMENTS)
    pool.publish("first")
    pool.claim("first", AGENT)  # what a process does once
    run = layer(pool, ids)
    gc.collect()
    gc.disable()
    try:
        started_ns = time.perf_counter_ns()
        run()
        return (time.perf_counter_ns() - started_ns) / tasks / 1000
    finally:
        gc.enable()


if __name__ == "__main__":
    main()

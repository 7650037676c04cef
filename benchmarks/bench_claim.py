"""What a claim costs: the original, our two cores, and the system calls alone (the floor).

    python benchmarks/bench_claim.py [--tasks 500] [--rounds 9] [--dir DIR]
    pytest benchmarks/bench_claim.py

The script is what to quote: in each round every contestant runs one batch, in an order that changes
from round to round, so that whatever else the machine does meets all alike. It prints Markdown.
pytest-benchmark measures one contestant after the other and drifts with the machine, but has the
better statistics of each, its own comparison with earlier runs, and profiles.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import random
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from contestants import (
    C_CORE,
    CONTESTANTS,
    FLOOR,
    ORIGINAL,
    WORKLOADS,
    Batch,
    Contestant,
    Workload,
    versions,
)
from fresh import FreshDirectories
from machine import Place, describe_load, describe_machine, describe_place, place_at, usual_places
from pytest_benchmark.fixture import BenchmarkFixture

BATCH_TASKS = 200  # under pytest-benchmark
ROUNDS = 9


# One contestant after the other: pytest-benchmark ------------------------------------------------


@pytest.fixture(scope="session")
def directories_in() -> Iterator[Callable[[Place], FreshDirectories]]:
    """Fresh directories in a place, removed when all has been measured."""
    made: dict[Place, FreshDirectories] = {}
    with contextlib.ExitStack() as stack:

        def directories_in(place: Place) -> FreshDirectories:
            if place not in made:
                made[place] = FreshDirectories(place)
                stack.callback(made[place].close)
            return made[place]

        yield directories_in


@pytest.fixture(scope="session")
def original_us() -> dict[tuple[str, str], float]:
    """The original's medians, by place and workload."""
    return {}


@pytest.mark.parametrize("contestant", CONTESTANTS, ids=lambda contestant: contestant.name)
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
@pytest.mark.parametrize("place", usual_places(), ids=lambda place: place.name)
@pytest.mark.benchmark(disable_gc=True)
def test_batch(
    benchmark: BenchmarkFixture,
    place: Place,
    workload: Workload,
    contestant: Contestant,
    directories_in: Callable[[Place], FreshDirectories],
    original_us: dict[tuple[str, str], float],
) -> None:
    """One batch of `BATCH_TASKS` operations; extra_info has the time of one of them."""
    if reason := place.unusable or contestant.unavailable:
        pytest.skip(reason)
    if not contestant.can(workload):
        pytest.skip(f"no {contestant.name} for this")
    directories = directories_in(place)

    def prepare() -> tuple[tuple[Batch, Path], dict[str, object]]:
        path = directories.new()
        batch = contestant.prepare(workload, path, BATCH_TASKS)
        directories.settle()
        return (batch, path), {}

    def run(batch: Batch, _: Path) -> None:
        batch.run()

    def check(batch: Batch, path: Path) -> None:
        batch.check()
        directories.done_with(path)

    benchmark.group = f"{workload.name}, {place.name}, {BATCH_TASKS} tasks"
    benchmark.name = contestant.name
    benchmark.pedantic(
        run, setup=prepare, teardown=check, rounds=ROUNDS, warmup_rounds=1, iterations=1
    )
    if benchmark.stats is None:
        return  # --benchmark-disable: it ran once, for the sake of running
    us = benchmark.stats.stats.median / BATCH_TASKS * 1e6
    benchmark.extra_info["us_per_task"] = us
    if contestant is ORIGINAL:
        original_us[place.name, workload.name] = us
    elif (place.name, workload.name) in original_us:
        benchmark.extra_info["times_faster_than_original"] = (
            original_us[place.name, workload.name] / us
        )


# Interleaved: the script --------------------------------------------------------------------------


def measure(
    place: Place, workload: Workload, contestants: list[Contestant], tasks: int, rounds: int
) -> dict[str, list[float]]:
    """Microseconds per operation, by contestant, one figure for each round."""
    figures: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    directories = FreshDirectories(place)
    try:
        for number in range(-1, rounds):
            # The same orders in each run. Not rotated: then each would always follow the same one,
            # and bear what that one leaves to the disk.
            for contestant in random.Random(number).sample(contestants, len(contestants)):
                us = _run_once(directories, contestant, workload, tasks)
                if number >= 0:  # the one before is to warm up
                    figures[contestant.name].append(us)
    finally:
        directories.close()
    return figures


def _run_once(
    directories: FreshDirectories, contestant: Contestant, workload: Workload, tasks: int
) -> float:
    path = directories.new()
    batch = contestant.prepare(workload, path, tasks)
    directories.settle()
    gc.collect()
    gc.disable()
    try:
        elapsed_ns = batch.run()
    finally:
        gc.enable()
    batch.check()
    directories.done_with(path)
    return elapsed_ns / tasks / 1000


def _rows(place: Place, contestants: list[Contestant], tasks: int, rounds: int) -> Iterator[str]:
    names = [contestant.name for contestant in contestants]
    yield f"| {place.name}, µs per operation | " + " | ".join(names) + " | C core / floor |"
    yield "|---|" + "---:|" * (len(names) + 1)
    widest = (0.0, "")
    for workload in WORKLOADS:
        taking_part = [contestant for contestant in contestants if contestant.can(workload)]
        if not taking_part:
            continue
        figures = measure(place, workload, taking_part, tasks, rounds)
        medians = {name: statistics.median(values) for name, values in figures.items()}
        cells = [_cell(name, medians) for name in names]
        above = ""
        if C_CORE.name in medians and FLOOR.name in medians:
            above = f"{medians[C_CORE.name] / medians[FLOOR.name]:.2f}"
        yield f"| {workload.name} | " + " | ".join(cells) + f" | {above} |"
        for name, values in figures.items():
            widest = max(widest, (_spread(values), f"{workload.name}, {name}"))
    yield ""
    yield (
        f"The middle half of the rounds spans at most {widest[0]:.0%} of its median: {widest[1]}."
    )


def _cell(name: str, medians: dict[str, float]) -> str:
    if name not in medians:
        return ""
    figure = f"{medians[name]:.3g}" if medians[name] < 100 else f"{medians[name]:.0f}"
    if name == ORIGINAL.name or ORIGINAL.name not in medians:
        return figure
    return f"{figure} ({medians[ORIGINAL.name] / medians[name]:.1f} x)"


def _spread(values: list[float]) -> float:
    """The middle half of the values, as a part of their median."""
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / middle


def _header(contestants: list[Contestant], tasks: int, rounds: int) -> Iterator[str]:
    yield f"{describe_machine()}; load {describe_load()}."
    yield f"{versions()}."
    yield (
        f"One process; medians of {rounds} rounds of {tasks} operations, all contestants in each"
        " round, fresh directories, garbage collection off."
    )
    yield (
        "(n x): times faster than the original. Its logger is set to WARNING: by default it writes"
        " one or two INFO lines per operation to stderr, which would make it slower."
    )
    yield (
        'Durability "data" but where it says unsynced: what a claim, a completion or a publication'
        " writes is synced before it returns. The original syncs its claims only."
    )
    for contestant in CONTESTANTS:
        if contestant not in contestants:
            yield f"Without {contestant.name}: {contestant.unavailable}."


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=500, help="operations per batch")
    parser.add_argument("--rounds", type=int, default=9, help="batches per contestant")
    parser.add_argument(
        "--dir",
        action="append",
        metavar="DIR",
        help="where to measure; may come several times (default: a tmpfs and $TMPDIR)",
    )
    arguments = parser.parse_args()
    if arguments.tasks < 1 or arguments.rounds < 1:
        parser.error("--tasks and --rounds must be 1 or more")
    contestants = [contestant for contestant in CONTESTANTS if contestant.unavailable is None]
    for line in _header(contestants, arguments.tasks, arguments.rounds):
        print(line + "  ", flush=True)
    for place in [place_at(path) for path in arguments.dir] if arguments.dir else usual_places():
        print(f"\n**{place.name}**: {place.unusable or describe_place(place)}\n")
        if place.unusable is None:
            for line in _rows(place, contestants, arguments.tasks, arguments.rounds):
                print(line, flush=True)
    print(f"\nLoad at the end: {describe_load()}.")


if __name__ == "__main__":
    main()

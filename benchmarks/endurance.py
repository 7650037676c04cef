"""Does it grow? 100,000 claims in one process: its memory, its descriptors, its time.

    python benchmarks/endurance.py [--claims 100000] [--dir DIR]

The tasks are published in pieces, each claimed and completed before the next, and the process is
looked at after the first 1,000 (of fewer: after half of them) and at the end. Exit status 1 if it
has grown by more than `MAY_GROW_BYTES`, or holds more descriptors.
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from contestants import AGENT, DESCRIPTION, REQUIREMENTS, RESULT
from machine import MEMORY_DIRECTORY, describe_load, describe_machine

import fastclaim
from fastclaim import TaskPool

FIRST = 1_000
PIECE = 1_000
MAY_GROW_BYTES = 256 * 1024  # an allocator's arena, not a byte for each claim


class Look(NamedTuple):
    """The process at one moment."""

    resident_bytes: int
    descriptors: int


class Spent(NamedTuple):
    """Time in claims alone."""

    claims: int = 0
    elapsed_s: float = 0.0
    user_s: float = 0.0
    system_s: float = 0.0

    def plus(self, other: Spent) -> Spent:
        """Both together."""
        return Spent(*(mine + its for mine, its in zip(self, other, strict=True)))


def look() -> Look:
    """The process now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Look(pages * resource.getpagesize(), len(os.listdir("/proc/self/fd")))


def run(pool: TaskPool, claims: int, done: int = 0) -> Spent:
    """Publish, claim and complete so many tasks; the time of the claims."""
    spent = Spent()
    for first in range(done, done + claims, PIECE):
        ids = [f"task-{number:08}" for number in range(first, min(first + PIECE, done + claims))]
        for task_id in ids:
            if not pool.publish_task(task_id, DESCRIPTION, REQUIREMENTS):
                raise RuntimeError(f"could not publish {task_id}")
        held = []
        started, started_s = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        for task_id in ids:
            held.append(pool.claim(task_id, AGENT))
        ended_s, ended = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        spent = spent.plus(
            Spent(
                len(ids),
                ended_s - started_s,
                ended.ru_utime - started.ru_utime,
                ended.ru_stime - started.ru_stime,
            )
        )
        for claim in held:
            claim.complete(RESULT)
        _forget_completed(pool)
    return spent


def _forget_completed(pool: TaskPool) -> None:
    # A tmpfs with 100,000 files would not fit everywhere, and is not what is looked at.
    for path in pool.completed_dir.iterdir():
        path.unlink()


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def main() -> int:
    """Measure, print, and return 1 if the process has grown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--claims", type=_number, default=100_000)
    parser.add_argument("--dir", default=MEMORY_DIRECTORY, help=f"default: {MEMORY_DIRECTORY}")
    arguments = parser.parse_args()
    first = FIRST if arguments.claims > FIRST else arguments.claims // 2
    base_dir = tempfile.mkdtemp(prefix="fastclaim-endurance-", dir=arguments.dir)
    try:
        pool = TaskPool(base_dir, lock_files=False)
        run(pool, first)
        before = look()
        spent = run(pool, arguments.claims - first, first)
        after = look()
    finally:
        shutil.rmtree(base_dir)
    print(f"{describe_machine()}; load {describe_load()}; {fastclaim.core} core.")
    grown = after.resident_bytes - before.resident_bytes
    print(f" - memory: {before.resident_bytes:,} B after {first:,} claims, {grown:+,} B at the end")
    print(f" - descriptors: {before.descriptors}, {after.descriptors} at the end")
    # Not a part of the elapsed time: that has what other processes took in it, too.
    processor_s = spent.user_s + spent.system_s
    outside = spent.user_s / processor_s if processor_s else 0.0
    print(
        f" - a claim in {arguments.dir}, no lock files:"
        f" {spent.elapsed_s / spent.claims * 1e6:.1f} µs,"
        f" {outside:.0%} of its processor time outside the kernel"
    )
    return 1 if grown > MAY_GROW_BYTES or after.descriptors > before.descriptors else 0


if __name__ == "__main__":
    raise SystemExit(main())

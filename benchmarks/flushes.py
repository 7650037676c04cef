"""What the disk takes for a durable write, step by step: the floors of a durable claim.

    python benchmarks/flushes.py [--dir DIR] [--files 192] [--rounds 7]

Every row writes 512 bytes into a place that has its blocks already, and has them on the disk when
it is done; the rows differ in what else is done to the file before, and in how it is flushed.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fresh import FreshDirectories
from machine import describe_load, describe_machine, describe_place, place_at

from fastclaim import batches
from fastclaim.file_system import stays_in_order

BATCH = 64
BLOCK_BYTES = 4096
# Aligned to a page, as O_DIRECT wants it.
_SECTOR = memoryview(mmap.mmap(-1, BLOCK_BYTES))[:512]
_PLAIN = os.O_RDWR | os.O_CLOEXEC

Step = Callable[[Path, str, int], None]


def _one_file(directory: Path, _: str, number: int) -> None:
    with open(directory / "together", "r+b", buffering=0) as together:
        os.pwritev(together.fileno(), [_SECTOR], number * BLOCK_BYTES)
        os.fdatasync(together.fileno())


def _own_file(flags: int = 0, rename: bool = False, utime: bool = False) -> Step:
    def step(directory: Path, name: str, _: int) -> None:
        path = f"{directory}/before/{name}"
        if rename:
            os.rename(path, f"{directory}/after/{name}")
            path = f"{directory}/after/{name}"
        fd = os.open(path, _PLAIN | flags)
        status = os.fstat(fd)
        os.pwritev(fd, [_SECTOR], 0)
        if not flags & os.O_DSYNC:
            os.fdatasync(fd)
        if utime:
            os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))
        os.close(fd)

    return step


class _Together:
    """Renames and writes one file after the other, and flushes a batch as `claim_many` does."""

    def __init__(self) -> None:
        self._files: list[tuple[bytes, int]] = []

    def __call__(self, directory: Path, name: str, _: int) -> None:
        path = f"{directory}/after/{name}"
        os.rename(f"{directory}/before/{name}", path)
        fd = os.open(path, _PLAIN)
        os.pwritev(fd, [_SECTOR], 0)
        self._files.append((os.fsencode(path), fd))
        if len(self._files) == BATCH:
            device = os.fstat(fd).st_dev
            if stays_in_order(device):
                batches._write_out(self._files)
                batches._commit(os.fsencode(directory / "after"))
            else:
                batches._flush_each(self._files, device, os.fdatasync)
            while self._files:
                os.close(self._files.pop()[1])


STEPS: dict[str, Step] = {
    "one file for all, fdatasync": _one_file,
    "own file, fdatasync": _own_file(),
    "own file, O_DSYNC": _own_file(os.O_DSYNC),
    "own file, O_DIRECT and O_DSYNC": _own_file(os.O_DIRECT | os.O_DSYNC),
    "own file, fdatasync, mtime put back": _own_file(utime=True),
    "own file, renamed before, fdatasync": _own_file(rename=True),
    "own file, renamed before, O_DSYNC": _own_file(os.O_DSYNC, rename=True),
    "own file, renamed before, fdatasync, mtime put back": _own_file(rename=True, utime=True),
    "own file, renamed before, 64 flushed together": _Together(),
}


def _microseconds(step: Step, directory: Path, files: int, settle: Callable[[], None]) -> float:
    names = [f"{number:06}" for number in range(files)]
    for state in ("before", "after"):
        (directory / state).mkdir(parents=True)
    for name in names:
        (directory / "before" / name).write_bytes(b"x" * 890)
    (directory / "together").write_bytes(bytes(files * BLOCK_BYTES))
    settle()
    started_ns = time.perf_counter_ns()
    for number, name in enumerate(names):
        step(directory, name, number)
    return (time.perf_counter_ns() - started_ns) / files / 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dir", default=tempfile.gettempdir(), help="default: $TMPDIR")
    parser.add_argument("--files", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    place = place_at(arguments.dir)
    if place.unusable:
        parser.error(place.unusable)
    if arguments.files % BATCH:
        parser.error(f"--files is a multiple of {BATCH}")
    directories = FreshDirectories(place)
    figures: dict[str, list[float]] = {name: [] for name in STEPS}
    try:
        for number in range(arguments.rounds):
            for name in random.Random(number).sample(list(STEPS), len(STEPS)):
                path = directories.new()
                files, settle = arguments.files, directories.settle
                figures[name].append(_microseconds(STEPS[name], path, files, settle))
    finally:
        directories.close()
    print(f"{describe_machine()}; load {describe_load()}.  ")
    print(f"{arguments.dir}: {describe_place(place)}.\n")
    print("| 512 bytes on the disk | µs | |\n|---|---:|---:|")
    least = statistics.median(next(iter(figures.values())))
    for name, values in figures.items():
        median = statistics.median(values)
        print(f"| {name} | {median:.0f} | {median / least:.2f} x |")


if __name__ == "__main__":
    main()

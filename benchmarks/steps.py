"""What each system call of a claim takes, and what all of them do: the floor, taken apart.

    python benchmarks/steps.py [--dir DIR]

See steps.c. The medians of the calls are added up, not a median of sums: what else the machine does
in between shows in neither.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from pathlib import Path

from contestants import compiler
from fresh import FreshDirectories
from machine import MEMORY_DIRECTORY, describe_load, describe_machine, describe_place, place_at

KINDS = {"no lock files": "0", "a linked lock file": "1", "a lock file that is made": "2"}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dir", default=MEMORY_DIRECTORY, help=f"default: {MEMORY_DIRECTORY}")
    arguments = parser.parse_args()
    place = place_at(arguments.dir)
    if place.unusable:
        parser.error(place.unusable)
    directories = FreshDirectories(place)
    try:
        with tempfile.TemporaryDirectory(prefix="fastclaim-steps-") as build:
            program = os.path.join(build, "steps")
            source = os.fspath(Path(__file__).with_name("steps.c"))
            subprocess.run([*compiler(), "-O2", "-o", program, source], check=True)
            found = {kind: _run(program, directories, how) for kind, how in KINDS.items()}
    finally:
        directories.close()
    print(f"{describe_machine()}; load {describe_load()}.  ")
    print(f"{arguments.dir}: {describe_place(place)}.\n")
    print("| µs | " + " | ".join(found) + " |")
    print("|---|" + "---:|" * len(found))
    for name in dict.fromkeys(name for took in found.values() for name in took):
        cells = [f"{took[name] / 1000:.2f}" if name in took else "" for took in found.values()]
        print(f"| {name} | " + " | ".join(cells) + " |")
    sums = [f"**{sum(took.values()) / 1000:.1f}**" for took in found.values()]
    print("| **all** | " + " | ".join(sums) + " |")


def _run(program: str, directories: FreshDirectories, lock: str) -> dict[str, int]:
    path = directories.new()
    path.mkdir()
    command = [program, os.fspath(path), lock]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    directories.done_with(path)
    lines = (line.split("\t") for line in done.stdout.splitlines())
    return {name: int(took_ns) for name, took_ns in lines}


if __name__ == "__main__":
    main()

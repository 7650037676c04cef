"""How many instructions an operation takes outside the kernel: a figure without noise.

    python benchmarks/instructions.py [--update]

callgrind counts them, in this process's own code, the interpreter's and the C library's. The counts
are kept in instructions.json; more than `TOLERANCE` above them is a regression (exit status 1), and
as much below them asks for ``--update``. They hold for one minor version of Python and one
processor architecture: others are added by ``--update``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from counted import KINDS
from machine import MEMORY_DIRECTORY

import fastclaim

RECORD = Path(__file__).with_name("instructions.json")
COUNT = 200
# Runs differ by less than 1 %; compilers and patch releases of Python by more.
TOLERANCE = 0.05
_TOTALS = re.compile(r"^(?:summary|totals): (\d+)", re.MULTILINE)


def count() -> dict[str, int]:
    """Instructions of one operation, by kind."""
    with tempfile.TemporaryDirectory(dir=MEMORY_DIRECTORY, prefix="fastclaim-count-") as directory:
        command = [
            "valgrind",
            "--quiet",
            "--tool=callgrind",
            "--dump-before=getppid",
            f"--callgrind-out-file={directory}/counts",
            sys.executable,
            os.fspath(Path(__file__).with_name("counted.py")),
            f"{directory}/pool",
            str(COUNT),
        ]
        environment = os.environ | {"PYTHONHASHSEED": "0"}
        subprocess.run(command, check=True, env=environment)
        # Two dumps for each kind: what was before it, and the kind itself.
        totals = [
            _total(Path(f"{directory}/counts.{2 * number + 2}")) for number in range(len(KINDS))
        ]
    return {
        kind: round((total - totals[0]) / COUNT)
        for kind, total in zip(KINDS[1:], totals[1:], strict=True)
    }


def _total(dump: Path) -> int:
    found = _TOTALS.search(dump.read_text(encoding="utf-8", errors="replace"))
    if found is None:
        raise RuntimeError(f"{dump} holds no total")
    return int(found[1])


def main() -> int:
    """Count, compare, and return 1 if something takes more than it did."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--update", action="store_true", help="record what is counted now")
    arguments = parser.parse_args()
    if shutil.which("valgrind") is None:
        parser.error("valgrind is not installed")
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    key = f"{fastclaim.core} core, CPython {platform.python_version_tuple()[0]}."
    key += f"{platform.python_version_tuple()[1]}, {platform.machine()}"
    before, now = record.get(key, {}), count()
    worse = _print(key, before, now)
    if arguments.update:
        record[key] = now
        RECORD.write_text(json.dumps(record, indent=1) + "\n")
        return 0
    return 1 if worse else 0


def _print(key: str, before: dict[str, int], now: dict[str, int]) -> list[str]:
    """The table; returns what has become worse."""
    worse = []
    print(f"| {key}, instructions outside the kernel | recorded | now | |")
    print("|---|---:|---:|---:|")
    for kind, instructions in now.items():
        change = instructions / before[kind] - 1 if kind in before else 0.0
        if change > TOLERANCE:
            worse.append(kind)
        verdict = " **more**" if change > TOLERANCE else ""
        print(f"| {kind} | {before.get(kind, 0):,} | {instructions:,} | {change:+.1%}{verdict} |")
    return worse


if __name__ == "__main__":
    raise SystemExit(main())

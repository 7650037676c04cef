"""Runs of the drivers, side by side, and with the tests that need no result of theirs."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..conftest import _transition_c

HERE = Path(__file__).resolve().parent
DURABILITIES = ("data", "full")
# What "full" adds to "data" is tried with the core in C, and with this one only when asked for.
LONG = [("py", "full")]
SHOWN = 20  # broken points in a failure's message
# Who has to be quick is not to wait for what takes minutes anyway.
NICENESS = 19

Sweeps = dict[tuple[str, str], "Sweep"]


class Sweep:
    """One run of the driver, in a process of its own."""

    def __init__(
        self, driver: str, shim: Path, core: str, durability: str, directory: Path
    ) -> None:
        self.name = f"{core}, {durability}"
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / driver), core, durability, str(directory)],
            env=preloading(shim),
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.nice(NICENESS),
        )
        self._result: dict[str, Any] | None = None

    @property
    def result(self) -> dict[str, Any]:
        if self._result is None:
            output, _ = self._process.communicate()
            assert self._process.returncode == 0
            self._result = json.loads(output)
        return self._result

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def keeps(
        self,
        promise: str,
        verbs: Callable[[str], bool] = lambda name: True,
        but: Callable[[list[str]], bool] = lambda point: False,
    ) -> None:
        """Assert it of these verbs, and say how many points say so."""
        broken = [
            p for p in self.result["broken"] if p[0] == promise and verbs(p[1]) and not but(p)
        ]
        print(f"{self.name}: {sum(self.result['points'].values())} points, {len(broken)} broken")
        shown = [" | ".join(point[1:]) for point in broken[:SHOWN]]
        assert not broken, "\n".join([f"{len(broken)} points:", *shown])


def preloading(shim: Path) -> dict[str, str]:
    """An environment in which programs run under the shim."""
    preloaded = " ".join(filter(None, (os.environ.get("LD_PRELOAD"), str(shim))))
    return os.environ | {"LD_PRELOAD": preloaded}


@contextlib.contextmanager
def running(driver: str, shim: Path) -> Iterator[Sweeps]:
    """Runs of a driver for each core and durability, on no disk where there is a tmpfs."""
    memory = Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK) else None
    cores = ("py",) if _transition_c is None else ("c", "py")
    with (
        tempfile.TemporaryDirectory(prefix="fastclaim-", dir=parent) as base,
        contextlib.ExitStack() as stack,
    ):
        started = {}
        for core, durability in itertools.product(cores, DURABILITIES):
            if (core, durability) in LONG and os.environ.get("FASTCLAIM_SWEEPS") != "all":
                continue
            place = Path(base, f"{core}-{durability}")
            place.mkdir()
            started[core, durability] = Sweep(driver, shim, core, durability, place)
            stack.callback(started[core, durability].stop)
        yield started


def sweep_of(sweeps: Sweeps, core: str, durability: str) -> Sweep:
    """The run of that core and durability, or a skip."""
    if (core, durability) not in sweeps:
        pytest.skip("takes a minute: FASTCLAIM_SWEEPS=all")
    return sweeps[core, durability]

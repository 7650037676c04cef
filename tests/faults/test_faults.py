"""What the verbs promise when the system refuses: every call of every verb, one at a time.

`driver.py` runs once for each core and durability, under the shim `interpose.c`, and tries all
points; each test here is one promise, and fails with the points at which it was broken.
"""

from __future__ import annotations

import difflib
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..conftest import _transition_c
from .conftest import Tell

HERE = Path(__file__).resolve().parent
DURABILITIES = ("data", "full")
# What "full" adds to "data" is tried with the core in C, and with this one only when asked for.
LONG = [("py", "full")]
SHOWN = 20  # broken points in a failure's message

pytestmark = [
    pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="the shim is for glibc and /proc"
    ),
]


class Sweep:
    """One run of the driver, in a process of its own."""

    def __init__(
        self, driver: str, shim: Path, core: str, durability: str, directory: Path
    ) -> None:
        preloaded = " ".join(filter(None, (os.environ.get("LD_PRELOAD"), str(shim))))
        self.name = f"{core}, {durability}"
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / driver), core, durability, str(directory)],
            env=os.environ | {"LD_PRELOAD": preloaded},
            stdout=subprocess.PIPE,
            text=True,
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


def run_sweeps(driver: str, shim: Path, directory: Path) -> Iterator[dict[tuple[str, str], Sweep]]:
    """Runs of a driver for each core and durability, on no disk where there is a tmpfs."""
    memory = Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK) else directory
    base = parent / f"fastclaim-{driver}-{os.getpid()}"
    cores = ("py",) if _transition_c is None else ("c", "py")
    started = {}
    try:
        for core, durability in itertools.product(cores, DURABILITIES):
            if (core, durability) in LONG and os.environ.get("FASTCLAIM_SWEEPS") != "all":
                continue
            place = base / f"{core}-{durability}"
            place.mkdir(parents=True)
            started[core, durability] = Sweep(driver, shim, core, durability, place)
        yield started
    finally:
        for sweep in started.values():
            sweep.stop()
        shutil.rmtree(base)


def sweep_of(sweeps: dict[tuple[str, str], Sweep], core: str, durability: str) -> Sweep:
    """The run of that core and durability, or a skip."""
    if (core, durability) not in sweeps:
        pytest.skip("takes a minute: FASTCLAIM_SWEEPS=all")
    return sweeps[core, durability]


@pytest.fixture(scope="session")
def sweeps(
    shim: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[tuple[str, str], Sweep]]:
    """All runs, side by side."""
    yield from run_sweeps("driver.py", shim, tmp_path_factory.getbasetemp())


CORES = [
    pytest.param(
        "c",
        marks=pytest.mark.skipif(_transition_c is None, reason="the extension was not built"),
    ),
    pytest.param("py", id="python"),
]


@pytest.fixture(params=DURABILITIES)
def durability(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=CORES)
def sweep(
    request: pytest.FixtureRequest, durability: str, sweeps: dict[tuple[str, str], Sweep]
) -> Sweep:
    """All points of one core and durability."""
    return sweep_of(sweeps, request.param, durability)


def test_every_call_of_every_verb_was_made_to_fail(sweep: Sweep, tell: Tell) -> None:
    points, calls = sweep.result["points"], sweep.result["calls"]
    tell(f"errors ({sweep.name}), {len(calls)} verbs, {points}", sweep.result["tried"])
    assert all(calls.values())
    assert points["no fault"] == len(calls)
    assert points["fail"] >= 2 * sum(map(len, calls.values()))


def replaces(verb: str) -> bool:
    """Whether it may rename over a file, or undoes a stamp by writing."""
    parts = ("if_exists=replace", "publish_task", " over a", "complete without completed/")
    return any(part in verb for part in parts)


def cannot_be_undone(point: list[str]) -> bool:
    """What was renamed over is gone, if the rename then says that it failed.

    No file system on a local disk does that. The others: an earlier result and an old claim, which
    the task's new publication has ended, and a stamp that the disk does not take back; the claim
    can then be completed again.
    """
    _, verb, fault, call, _ = point
    if fault.startswith("done, but fails") and "rename" in call:
        return True
    ended = ("over an earlier completion", "over an old claim")
    no_way_back = verb.startswith("complete without completed/") and "pwrite" in call
    return no_way_back or any(words in verb for words in ended)


def test_a_refused_verb_leaves_every_file_to_the_byte_and_mtime(sweep: Sweep) -> None:
    sweep.keeps("as before", lambda verb: not replaces(verb))


def test_a_refused_replacement_leaves_what_it_would_have_replaced(sweep: Sweep) -> None:
    sweep.keeps("as before", replaces, cannot_be_undone)


def test_a_failed_clean_up_is_no_failure(sweep: Sweep) -> None:
    sweep.keeps("cleaning")


def test_a_task_is_in_exactly_one_place(sweep: Sweep) -> None:
    sweep.keeps("one place")


def test_what_a_verb_returned_is_what_the_pool_holds(sweep: Sweep) -> None:
    sweep.keeps("whole")


def test_no_verb_succeeds_over_a_failure_that_matters(sweep: Sweep) -> None:
    sweep.keeps("failure is told")


def test_a_system_error_is_the_calls_and_names_a_file_of_the_pool(sweep: Sweep) -> None:
    sweep.keeps("named error")


def test_the_originals_methods_log_what_they_do_not_raise(sweep: Sweep) -> None:
    sweep.keeps("log line")


def test_no_lock_and_no_temporary_file_is_left(sweep: Sweep) -> None:
    sweep.keeps("litter")


def test_no_descriptor_is_left(sweep: Sweep) -> None:
    sweep.keeps("descriptors")


def test_a_failed_sync_is_never_tried_again(sweep: Sweep) -> None:
    sweep.keeps("one sync")


def test_after_a_failure_the_next_try_works_at_once(sweep: Sweep) -> None:
    sweep.keeps("works at once")


def test_short_reads_and_writes_and_a_missing_renameat2_are_no_errors(sweep: Sweep) -> None:
    sweep.keeps("succeeds")


def test_where_the_cores_make_other_calls(
    sweeps: dict[tuple[str, str], Sweep], durability: str
) -> None:
    """Prints it: the two need not agree call for call."""
    if ("c", durability) not in sweeps:
        pytest.skip("the extension was not built")
    compiled, python = (sweep_of(sweeps, core, durability).result["calls"] for core in ("c", "py"))
    assert compiled.keys() == python.keys()
    differences: dict[str, list[str]] = {}
    for verb in compiled:
        calls = compiled[verb], python[verb]
        changes = "\n    ".join(difflib.unified_diff(*calls, "c", "python", n=1, lineterm=""))
        differences.setdefault(changes, []).append(verb)
    print("the same:", ", ".join(differences.pop("", ())))
    for changes, verbs in differences.items():
        print(", ".join(verbs), changes, sep="\n    ")

"""A signal ends every wait of the command, also where Python discards what a handler raises."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fastclaim import TaskPool
from fastclaim.cli.exits import Terminated
from fastclaim.cli.stopping import EndOfWait

from .commands import DEADLINE_S, environment

# The command, to which the signal comes within a weak reference's callback, before its first wait.
IN_A_CALLBACK = """
import os, sys, weakref
sys.path[:] = PATH
from fastclaim.cli import console
from fastclaim.inotify import Inotify

class Thing:
    pass

def wait(inotify, *arguments, wait=Inotify.wait):
    thing, Inotify.wait = Thing(), wait
    watched = weakref.ref(thing, lambda _: os.kill(os.getpid(), SIGNAL))
    del thing
    return wait(inotify, *arguments)

Inotify.wait = wait
console()
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The directory of a pool that is there, and empty."""
    return Path(TaskPool(tmp_path / "pool").base_dir)


@pytest.mark.parametrize(
    ("command", "number"),
    [
        (["work", "--agent", "x", "--", "true"], signal.SIGTERM),
        (["work", "--agent", "x", "--", "true"], signal.SIGHUP),
        (["work", "--agent", "x", "--", "true"], signal.SIGINT),
        (["claim", "--agent", "x", "--wait", "inf"], signal.SIGTERM),
        (["claim", "--agent", "x", "--wait", "inf"], signal.SIGINT),
        (["events", "--follow"], signal.SIGINT),
        (["serve-metrics", "--port", "0"], signal.SIGINT),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value.name,
)
def test_a_signal_whose_exception_python_discards_ends_a_wait_all_the_same(base, command, number):
    if command[0] == "serve-metrics":
        pytest.importorskip("prometheus_client")
    code = f"PATH, SIGNAL = {sys.path!r}, {int(number)}\n{IN_A_CALLBACK}"
    name, *rest = command
    result = subprocess.run(
        [sys.executable, "-c", code, name, "--pool", base, *rest],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert (result.returncode, result.stderr) == (128 + number, "")


def test_what_is_let_go_of_on_the_way_out_is_not_cut_short():
    let_go = []

    def hold() -> None:
        try:
            os.kill(os.getpid(), signal.SIGHUP)
        finally:
            try:
                raise KeyError
            except KeyError:
                os.kill(os.getpid(), signal.SIGALRM)  # as the timer does
            let_go.append("all")

    with EndOfWait([signal.SIGHUP]), pytest.raises(Terminated):
        hold()
    assert let_go == ["all"]


def test_after_the_wait_everything_is_as_it_was():
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers], sys.unraisablehook
    with EndOfWait():
        pass
    assert ([signal.getsignal(number) for number in numbers], sys.unraisablehook) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_signal_that_is_ignored_stays_ignored():
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with EndOfWait():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, former)

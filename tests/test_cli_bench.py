"""`fastclaim bench`: measures where it is told to, leaves nothing there, says who is missing."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys

import pytest

from fastclaim.cli import bench, bench_contestants, exits

from .commands import DEADLINE_S, environment


def run_bench(*arguments: object) -> int:
    """Run the subcommand."""
    parser = argparse.ArgumentParser()
    bench.add_bench_arguments(parser)
    return bench.run_bench(parser.parse_args([*map(str, arguments)]))


def test_every_entrant_is_measured_and_nothing_is_left_behind(tmp_path, capsys):
    status = run_bench("--dir", tmp_path, "--tasks", 3, "--rounds", 1)
    said = capsys.readouterr().out
    taking_part, _ = bench_contestants.entrants()
    assert status == exits.OK
    assert [one.name for one in taking_part if f"  {one.name} " not in said] == []
    assert said.count("µs a claim") == len(taking_part)
    assert os.listdir(tmp_path) == []


# The command, which gets a signal in the midst of its first measurement, and once more while it
# removes its directory.
SIGNALLED = """
import os, shutil, sys
sys.path[:] = PATH
from fastclaim.cli import bench, console

remove, measure = shutil.rmtree, bench._round

def signal_and_measure(contestant, tasks):
    measure(contestant, tasks)
    os.kill(os.getpid(), SIGNAL)

def signal_and_remove(*arguments, **options):
    os.kill(os.getpid(), SIGNAL)
    remove(*arguments, **options)

bench._round, shutil.rmtree = signal_and_measure, signal_and_remove
console()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_it_and_nothing_is_left_behind(tmp_path, number):
    code = f"PATH, SIGNAL = {sys.path!r}, {int(number)}\n{SIGNALLED}"
    result = subprocess.run(
        [sys.executable, "-c", code, "bench", "--dir", tmp_path, "--tasks", "3"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert (result.returncode, result.stderr) == (128 + number, "")
    assert os.listdir(tmp_path) == []


def test_it_measures_beside_the_pool_that_would_be_used_and_does_not_make_it(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("A2A_BASE_DIR", os.fspath(tmp_path / "not" / "yet"))
    assert run_bench("--tasks", 1, "--rounds", 1) == exits.OK
    assert f"in {tmp_path};" in capsys.readouterr().out
    assert os.listdir(tmp_path) == []


def test_a_directory_that_is_not_there_is_bad_input(tmp_path):
    with pytest.raises(exits.BadInput, match="nowhere: not a directory"):
        run_bench("--dir", tmp_path / "nowhere")


@pytest.mark.parametrize("number", ["0", "-1", "x", "1e3", "100001"])
def test_a_number_that_makes_no_sense_is_refused(number, capsys):
    with pytest.raises(SystemExit, match="2"):
        run_bench("--tasks", number)
    assert f"{number!r} is not a whole number from 1 to" in capsys.readouterr().err


def test_without_sqlite3_it_says_so_and_measures_the_others(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sqlite3", None)
    assert run_bench("--dir", tmp_path, "--tasks", 1, "--rounds", 1) == exits.OK
    said = capsys.readouterr().out
    assert "Without sqlite3" in said
    assert "sqlite3 WAL" not in said
    assert "a rename alone" in said


@pytest.mark.parametrize(
    "entrant", bench_contestants.entrants()[0], ids=lambda entrant: entrant.name.strip()
)
@pytest.mark.parametrize("verb", ["claim", "complete"])
def test_nobody_is_measured_at_doing_nothing(entrant, verb, tmp_path):
    contestant = entrant.make(tmp_path / "store")
    contestant.publish("there")
    try:
        with pytest.raises((LookupError, OSError, RuntimeError)):
            getattr(contestant, verb)("not there")
    finally:
        contestant.close()

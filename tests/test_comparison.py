"""benchmarks/: what it counts is counted, who is missing is named, what is wrong fails the run."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, os.fspath(BENCHMARKS))

_level = logging.getLogger().level
import aims  # noqa: E402
import compare  # noqa: E402
import instructions  # noqa: E402
import report  # noqa: E402
import team  # noqa: E402
import workloads  # noqa: E402
from peers import Fastclaim, Guarantees, Peer, Session  # noqa: E402

logging.getLogger().setLevel(_level)  # for their figures' sake, they silence the original


class Forgetful(Session):
    """Hands out what it was given, in each process anew, or only every other task."""

    def __init__(self, store: list[str], step: int) -> None:
        self._store, self._step = store, step

    def publish(self, task: dict[str, Any]) -> str:
        self._store.append(task["task_id"])
        return task["task_id"]

    def claim_next(self) -> str | None:
        hold = self._store[0] if self._store else None
        del self._store[: self._step]
        return hold

    def ref(self, hold: str) -> str:
        return hold

    def read(self, hold: str) -> dict[str, Any]:
        return {}


class ForgetfulPeer(Peer):
    """A peer of `Forgetful`."""

    name = "forgetful"
    guarantees = Guarantees("nothing", "is lost", says_who=False)
    has_ids = completes = False

    def __init__(self, step: int = 1) -> None:
        self._step = step

    def new_store(self, directory: Path):
        store: list[str] = []
        return lambda: Forgetful(store, self._step)


def drained(peer: Peer, directory: Path, workers: int) -> workloads.Round:
    """What so many processes make of 12 tasks."""
    return workloads.drain_next(
        peer,
        peer.new_store(directory),
        lambda: None,
        workloads.tasks_of(12),
        workloads.Team(workers, team.processes),
    )


def test_tasks_that_are_handed_out_twice_are_counted(tmp_path):
    assert drained(ForgetfulPeer(), tmp_path, workers=3).count == (24, 0)


def test_tasks_that_are_lost_are_counted(tmp_path):
    assert drained(ForgetfulPeer(step=3), tmp_path, workers=1).count == (0, 8)


def test_one_process_counts_what_is_lost_too(tmp_path):
    peer = ForgetfulPeer(step=2)
    tasks = workloads.tasks_of(12)
    counted = workloads.one_process(peer, peer.new_store(tmp_path), lambda: None, tasks).count
    assert counted == (0, 6)


def test_a_race_that_two_win_is_counted(tmp_path):
    peer = ForgetfulPeer()
    tasks = workloads.tasks_of(2)
    connect = peer.new_store(tmp_path)

    def connect_to_one_of_its_own():
        session = connect()
        session.publish(tasks[0])
        return session

    found = workloads.race(peer, connect_to_one_of_its_own, lambda: None, tasks, workers=3)
    assert found.count.doubles > 0


@pytest.mark.parametrize("kind", [team.processes, team.threads])
def test_ours_hands_out_each_task_once(tmp_path, kind):
    peer = Fastclaim("fastclaim", lock_files=False, durability="none")
    found = workloads.drain_by_id(
        peer,
        peer.new_store(tmp_path / "pool"),
        lambda: None,
        workloads.tasks_of(12),
        workloads.Team(3, kind),
    )
    assert found.count == (0, 0)


@pytest.mark.parametrize("kind", [team.processes, team.threads])
def test_no_worker_starts_before_all_are_ready(tmp_path, kind):
    def prepare(number: int) -> team.Work:
        (tmp_path / f"{number}").touch()
        return lambda: [len(os.listdir(tmp_path))]

    assert kind(4, prepare).got == [[4]] * 4


def test_no_process_leaves_before_all_have_ended(tmp_path):
    """Or its claims would go to the others, and count as handed out twice."""
    has_ended = os.pipe()

    def prepare(number: int) -> team.Work:
        alive = os.open(tmp_path / "alive", os.O_WRONLY | os.O_CREAT)  # until the process ends

        def early() -> list[bool]:
            fcntl.flock(alive, fcntl.LOCK_EX)
            os.write(has_ended[1], b" ")
            return []

        def late() -> list[bool]:
            os.read(has_ended[0], 1)
            deadline_s = time.monotonic() + 0.3
            while time.monotonic() < deadline_s:
                try:
                    fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                return [False]
            return [True]

        return late if number else early

    try:
        assert team.processes(2, prepare).got == [[], [True]]
    finally:
        for end in has_ended:
            os.close(end)


@pytest.mark.parametrize("kind", [team.processes, team.threads])
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_a_worker_raises_is_not_lost(kind, when):
    def prepare(number: int) -> team.Work:
        def work() -> list[Any]:
            raise ZeroDivisionError("a bad worker")

        return work() if when == "before" and number == 1 else work

    with pytest.raises(RuntimeError, match="a bad worker"):
        kind(2, prepare)


def test_whom_it_cannot_have_it_leaves_out_and_names():
    class Missing(ForgetfulPeer):
        distributions = ("no-such-distribution-of-anybody",)

    taking_part, left_out = compare._available([Missing(), ForgetfulPeer()], None)
    assert [type(peer) for peer in taking_part] == [ForgetfulPeer]
    assert left_out[0]["peer"] == "forgetful"
    assert "no-such-distribution-of-anybody is not installed" in left_out[0]["reason"]


def result(**changes: Any) -> dict[str, Any]:
    """One cell of a comparison."""
    cell = {
        "place": "tmpfs",
        "workload": "one process",
        "figure": "claim by id",
        "peer": "fastclaim",
        "unit": "µs",
        "median": 10.0,
        "rounds": [10.0],
        "doubles": 0,
        "lost": 0,
    }
    return cell | changes


@pytest.mark.parametrize(
    ("wrong", "expected"), [({}, False), ({"doubles": 1}, True), ({"lost": 2}, True)]
)
def test_a_task_that_ours_doubles_or_loses_fails_the_run(wrong, expected):
    comparison = {"results": [result(**wrong)], "failures": []}
    assert compare._is_ours_wrong(comparison, [Fastclaim("fastclaim")]) is expected


def test_a_task_that_a_peer_doubles_is_told_and_fails_nothing():
    comparison = {"results": [result(peer="forgetful", doubles=3)], "failures": []}
    assert not compare._is_ours_wrong(comparison, [Fastclaim("fastclaim"), ForgetfulPeer()])
    assert "forgetful handed out 3 twice" in "\n".join(report._counts(comparison))


TMPFS = {"name": "tmpfs", "is_memory": True}


def verdicts(*results: dict[str, Any]) -> list[str]:
    """The aims' last column."""
    return [line.split("|")[-2].strip() for line in aims.table(list(results), [TMPFS])][2:]


@pytest.mark.parametrize(("original", "verdict"), [(50.0, "met"), (49.0, "**not met**")])
def test_an_aim_is_met_from_its_bound_on(original, verdict):
    assert verdicts(result(), result(peer="original", median=original)) == [verdict]


def test_an_aim_that_was_not_measured_is_not_judged():
    assert verdicts(result()) == []


@pytest.mark.parametrize(("now", "worse"), [(104, []), (96, []), (106, ["claim"]), (90, [])])
def test_only_more_instructions_than_the_tolerance_allows_are_a_regression(now, worse, capsys):
    assert instructions._print("here", {"claim": 100}, {"claim": now}) == worse


def run_script(name: str, *arguments: object) -> Iterator[str]:
    """The lines that a script of the benchmarks prints; it must succeed."""
    command = [sys.executable, os.fspath(BENCHMARKS / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_a_quick_comparison_runs_and_leaves_nothing_behind(tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    only = ("--only", "fastclaim, no lock files", "--only", "rename", "--only", "NORMAL")
    workload = ("--workload", "one process", "--workload", "race")
    kept = tmp_path / "kept.json"
    said = run_script("compare.py", "--quick", "--dir", place, *only, *workload, "--json", kept)
    measured = json.loads(kept.read_text())
    assert {one["peer"] for one in measured["results"]} >= {"bare rename", "sqlite3 WAL, NORMAL"}
    assert measured["failures"] == []
    assert "## Aims" in said
    assert os.listdir(place) == []


def test_many_claims_in_one_process_hold_no_more_descriptors(tmp_path):
    said = run_script("endurance.py", "--claims", 1100, "--dir", tmp_path)
    assert any(line.startswith(" - descriptors: ") for line in said)

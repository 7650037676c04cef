"""Workers that start together: processes or threads, each with a session of its own.

They connect first, then wait for one signal; the time runs from the signal to the last worker's
end. What each of them got comes back by a pipe: nobody's word is taken for it that a task was
handed out once. Nobody leaves before all have ended: the claims of a process that has died may go
to another, and rightly.
"""

from __future__ import annotations

import gc
import json
import os
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

Work = Callable[[], list[Any]]
"""What a worker does once all are ready; returns the refs of the tasks that it got."""

Prepare = Callable[[int], Work]
"""Makes the work of worker number 0, 1, ..., in that worker."""

# After the last worker has said that it is ready, until it surely sleeps and waits for the signal.
_UNTIL_ASLEEP_S = 0.003


class Outcome(NamedTuple):
    """How long the team took, and what each of its workers got."""

    elapsed_s: float
    got: list[list[Any]]


def processes(workers: int, prepare: Prepare) -> Outcome:
    """Let so many processes work at the same time.

    Raises
    ------
    RuntimeError
        A worker raised; with its traceback.
    """
    (outcome,) = repeatedly(workers, prepare, 1, lambda number: None)
    return outcome


def repeatedly(
    workers: int, prepare: Prepare, rounds: int, before: Callable[[int], None]
) -> list[Outcome]:
    """Let so many processes work at the same time, several times.

    Parameters
    ----------
    workers : int
        How many processes.
    prepare : callable
        As above; its work is called once a round.
    rounds : int
        How often.
    before : callable
        What this process does before each round, which is called with its number.

    Raises
    ------
    RuntimeError
        A worker raised; with its traceback.
    """
    signals = [_Pipe(*os.pipe()) for _ in range(rounds)]
    ready, leave = _Pipe(*os.pipe()), _Pipe(*os.pipe())
    gc.collect()
    gc.freeze()  # a child's garbage collection must not copy every page that it looks at
    try:
        children = [_fork(number, prepare, ready, leave, signals) for number in range(workers)]
        os.close(ready.write)
        started_ns = [_round(number, before, workers, ready, signals) for number in range(rounds)]
        texts = [child.text() for child in children]
    finally:
        gc.unfreeze()
        for end in (ready.read, leave.read, leave.write, *(signal.read for signal in signals)):
            os.close(end)
    for child in children:
        os.waitpid(child.pid, 0)
    reports = [_report(text) for text in texts]
    return [
        Outcome(
            (max(report[number]["ended_ns"] for report in reports) - started_ns[number]) / 1e9,
            [report[number]["got"] for report in reports],
        )
        for number in range(rounds)
    ]


class _Pipe(NamedTuple):
    read: int
    write: int


def _round(
    number: int,
    before: Callable[[int], None],
    workers: int,
    ready: _Pipe,
    signals: list[_Pipe],
) -> int:
    """One round, from here; returns when it started."""
    waiting = workers
    while waiting and (said := os.read(ready.read, waiting)):
        waiting -= len(said)  # an end of file means that none is left to wait for
    before(number)
    time.sleep(_UNTIL_ASLEEP_S)
    started_ns = time.perf_counter_ns()
    os.close(signals[number].write)  # the end of file wakes them all
    return started_ns


class _Child(NamedTuple):
    pid: int
    results: int

    def text(self) -> str:
        with open(self.results, encoding="utf-8") as results:
            return results.read()


def _report(text: str) -> list[dict[str, Any]]:
    report = json.loads(text or '{"error": "it ended without a word"}')
    if "error" in report:
        raise RuntimeError(f"a worker failed: {report['error']}")
    rounds: list[dict[str, Any]] = report["rounds"]
    return rounds


def _fork(
    number: int, prepare: Prepare, ready: _Pipe, leave: _Pipe, signals: list[_Pipe]
) -> _Child:
    results = _Pipe(*os.pipe())
    pid = os.fork()
    if pid:
        os.close(results.write)
        return _Child(pid, results.read)
    try:
        parents = (ready.read, results.read, leave.write, *(signal.write for signal in signals))
        for end in parents:
            os.close(end)
        work = prepare(number)  # kept to the end: the others' last round must hear of no death
        report: dict[str, Any] = {"rounds": _rounds(work, ready.write, signals)}
    except BaseException:
        report = {"error": traceback.format_exc()}
        os.write(ready.write, b" " * len(signals))  # the others must not be kept waiting for it
    try:
        with open(results.write, "w", encoding="utf-8") as results_file:
            json.dump(report, results_file)
        os.read(leave.read, 1)
    finally:
        # Not sys.exit(): the parent's connections and temporary directories are the parent's.
        os._exit(0)


def _rounds(work: Work, ready: int, signals: list[_Pipe]) -> list[dict[str, Any]]:
    gc.disable()
    rounds = []
    for signal in signals:
        os.write(ready, b" ")
        os.read(signal.read, 1)
        got = work()
        rounds.append({"ended_ns": time.perf_counter_ns(), "got": got})
    return rounds


def threads(workers: int, prepare: Prepare) -> Outcome:
    """Let so many threads of this process work at the same time.

    Raises
    ------
    RuntimeError
        A worker raised.
    """
    ready, go = threading.Barrier(workers + 1), threading.Event()
    reports: list[tuple[int, list[Any]]] = []
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work = prepare(number)
            ready.wait()
            go.wait()
            got = work()
            reports.append((time.perf_counter_ns(), got))
        except BaseException as error:
            errors.append(error)
            ready.abort()

    team = [threading.Thread(target=run, args=(number,)) for number in range(workers)]
    for thread in team:
        thread.start()
    try:
        ready.wait()
    except threading.BrokenBarrierError:
        pass  # a worker's error says why
    time.sleep(_UNTIL_ASLEEP_S)
    started_ns = time.perf_counter_ns()
    go.set()
    for thread in team:
        thread.join()
    if errors:
        raise RuntimeError(f"a worker failed: {errors[0]!r}") from errors[0]
    ended_ns = max(ended_ns for ended_ns, _ in reports)
    return Outcome((ended_ns - started_ns) / 1e9, [got for _, got in reports])

"""Workers that start together: processes or threads, each with a session of its own.

They connect first, then wait for one signal; the time runs from the signal to the last worker's
end. What each of them got comes back by a pipe: nobody's word is taken for it that a task was
handed out once.
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
    go, start = os.pipe()
    gc.collect()
    gc.freeze()  # a child's garbage collection must not copy every page that it looks at
    try:
        children = [_fork(number, prepare, go, start) for number in range(workers)]
        os.close(go)
        for child in children:
            child.wait_until_ready()
        started_ns = time.perf_counter_ns()
        os.close(start)  # the end of file wakes them all
        reports = [child.report() for child in children]
    finally:
        gc.unfreeze()
    ended_ns = max(report["ended_ns"] for report in reports)
    return Outcome((ended_ns - started_ns) / 1e9, [report["got"] for report in reports])


class _Child(NamedTuple):
    pid: int
    results: int

    def wait_until_ready(self) -> None:
        os.read(self.results, 1)

    def report(self) -> dict[str, Any]:
        with open(self.results, encoding="utf-8") as results:
            text = results.read()
        os.waitpid(self.pid, 0)
        report: dict[str, Any] = json.loads(text or '{"error": "it ended without a word"}')
        if "error" in report:
            raise RuntimeError(f"a worker failed: {report['error']}")
        return report


def _fork(number: int, prepare: Prepare, go: int, start: int) -> _Child:
    results, report_to = os.pipe()
    pid = os.fork()
    if pid:
        os.close(report_to)
        return _Child(pid, results)
    try:
        os.close(results)
        os.close(start)
        text = _work(number, prepare, go, report_to)
    except BaseException:
        text = json.dumps({"error": traceback.format_exc()})
    try:
        with open(report_to, "w", encoding="utf-8") as results_file:
            results_file.write(text)
    finally:
        # Not sys.exit(): the parent's connections and temporary directories are the parent's.
        os._exit(0)


def _work(number: int, prepare: Prepare, go: int, report_to: int) -> str:
    work = prepare(number)
    gc.disable()
    os.write(report_to, b" ")
    os.read(go, 1)
    got = work()
    return json.dumps({"ended_ns": time.perf_counter_ns(), "got": got})


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
    started_ns = time.perf_counter_ns()
    go.set()
    for thread in team:
        thread.join()
    if errors:
        raise RuntimeError(f"a worker failed: {errors[0]!r}") from errors[0]
    ended_ns = max(ended_ns for ended_ns, _ in reports)
    return Outcome((ended_ns - started_ns) / 1e9, [got for _, got in reports])

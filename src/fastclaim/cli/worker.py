"""The loop of `fastclaim work`: claims, runs, settles, until it is told to stop.

One thread: signals, pipes, and the ends of commands all come through one selector. With nothing
running it waits inside `claim_next`, out of which a signal raises.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import selectors
import signal
import socket
import time
from collections.abc import Sequence
from typing import Any, Final, Self

from ..claim import Claim
from ..errors import ClaimLost, InvalidTask, TaskExists, TaskPoolError
from ..pausing import described_pause
from ..pool import TaskPool
from . import answer, exits, fields, options, settled
from .finish import as_result
from .job import End, Job
from .output import count, screen
from .stopping import EndOfWait

# How often to look for more tasks while some, but not all jobs have one.
_LOOK_AGAIN_S: Final = 0.2
# From SIGTERM to SIGKILL.
LAST_WORDS_S: Final = 5.0


class Worker:
    """What `fastclaim work` does; a context manager, after which nothing is left running.

    Parameters
    ----------
    arguments : argparse.Namespace
        See `fastclaim.cli.work`.
    pool : TaskPool
        Where to claim.
    command : sequence of str
        What to run for each task.
    """

    def __init__(
        self, arguments: argparse.Namespace, pool: TaskPool, command: Sequence[str]
    ) -> None:
        self._arguments = arguments
        self._pool = pool
        self._command = command
        self._environment = os.environ | {
            options.AGENT_VARIABLE: arguments.agent,
            "A2A_BASE_DIR": options.pool_name(arguments),
        }
        self._jobs: dict[Job, Claim] = {}
        self._started = 0
        self._idle_since_s = time.monotonic()
        self._waiting = False
        # Set once we are told to stop.
        self._stop_signal: int | None = None
        self._stop_is_announced = False
        self._stop_at_s = float("inf")
        self._kill_at_s = float("inf")
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        # Jobs are waited for to the end of their grace; only a wait for tasks is cut short.
        self._end_of_wait = EndOfWait(
            told=self._stop, waits=lambda: self._waiting and not self._jobs
        )

    def __enter__(self) -> Self:
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, lambda: self._woken.recv(4096))
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        self._end_of_wait.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        for job, claim in self._jobs.items():
            # What fails here keeps no other task, and does not hide why we are here.
            with contextlib.suppress(OSError):
                job.kill()
            with contextlib.suppress(TaskPoolError, OSError):  # our end gives it back all the same
                claim.release()
        self._end_of_wait.__exit__()
        signal.set_wakeup_fd(-1)
        self._selector.close()
        self._wake.close()
        self._woken.close()

    def run(self) -> int:
        """Returns the exit status."""
        try:
            while self._start_jobs() or self._jobs:
                self._attend()
        except exits.Terminated:
            pass  # while it had nothing to do
        if self._stop_signal is not None:
            return exits.SIGNALLED + self._stop_signal
        if self._arguments.once and self._started:
            return exits.OK
        self._mention_pause()
        return exits.NOT_DONE if self._arguments.once else exits.OK

    def _mention_pause(self) -> None:
        """Say it if there may have been something to do after all."""
        pause = self._pool.paused()
        if pause is not None:
            self._complain(f"nothing to claim: {exits.one_line(described_pause(pause))}")

    # Claiming -------------------------------------------------------------------------------------

    def _start_jobs(self) -> bool:
        """Start what can be started; False if there is nothing more to wait for."""
        while self._wants_more():
            claim = self._claim()
            if claim is not None:
                self._start(claim)
            elif self._arguments.until_empty or self._idle_left_s() <= 0:
                return False
            elif self._jobs:
                return True
        return False

    def _wants_more(self) -> bool:
        if self._stop_signal is not None or (self._arguments.once and self._started):
            return False
        return len(self._jobs) < int(self._arguments.jobs)

    def _claim(self) -> Claim | None:
        left_s = self._idle_left_s()
        wait_s: float | None = None if left_s == float("inf") else max(0.0, left_s)
        if self._jobs or self._arguments.until_empty:
            wait_s = 0.0
        self._waiting = True
        try:
            if self._stop_signal is not None:
                return None
            claim: Claim | None = self._pool.claim_next(
                self._arguments.agent,
                self._arguments.capabilities,
                order=self._arguments.order,
                wait=wait_s,
            )
            return claim
        finally:
            self._waiting = False

    def _idle_left_s(self) -> float:
        if self._jobs:
            return float("inf")
        left: float = self._idle_since_s + self._arguments.idle_exit - time.monotonic()
        return left

    def _start(self, claim: Claim) -> None:
        try:
            task = claim.task
            variables = {
                options.TASK_VARIABLE: f"{claim.task_id}",
                "FASTCLAIM_TOKEN": claim.token,
                "FASTCLAIM_ATTEMPT": f"{fields.attempts(task) + 1}",
            }
            told = answer.told(task)
            job = Job(self._command, told, self._environment | variables, self._selector)
        except BaseException:
            claim.release()
            raise
        self._jobs[job] = claim
        self._started += 1

    # Running --------------------------------------------------------------------------------------

    def _attend(self) -> None:
        """Wait for something to happen, and do what it asks for."""
        for key, _ in self._selector.select(self._patience_s()):
            # One of the events may have closed what another is about.
            if key.fd in self._selector.get_map():
                key.data()
        self._announce_stop()
        self._hurry()
        for job in [job for job in self._jobs if job.end is not None]:
            claim = self._jobs.pop(job)
            assert job.end is not None
            self._settle(claim, job.end)
            self._idle_since_s = time.monotonic()

    def _patience_s(self) -> float | None:
        until_s = min(self._stop_at_s, self._kill_at_s)
        if self._wants_more():
            until_s = min(until_s, time.monotonic() + _LOOK_AGAIN_S)
        return None if until_s == float("inf") else max(0.0, until_s - time.monotonic())

    def _stop(self, number: int) -> None:
        now_s = time.monotonic()
        if self._stop_signal is None:
            self._stop_at_s = now_s + self._arguments.grace_s
        elif self._kill_at_s == float("inf"):
            self._stop_at_s = now_s  # told twice: no more grace
        else:
            self._kill_at_s = now_s  # told once more: no more last words
        self._stop_signal = number

    def _announce_stop(self) -> None:
        """Say what it is waited for: not in the signal's handler, which may come amid a line."""
        if self._stop_signal is not None and self._jobs and not self._stop_is_announced:
            self._stop_is_announced = True
            left_s = max(0.0, self._stop_at_s - time.monotonic())
            running = count(len(self._jobs), "job")
            self._complain(
                f"stopping; {running} may go on for {left_s:.0f} s;"
                " once more: SIGTERM now; a third time: SIGKILL"
            )

    def _hurry(self) -> None:
        """End what goes on beyond its grace."""
        now_s = time.monotonic()
        if now_s >= self._kill_at_s:
            for job in self._jobs:
                job.kill()
        elif now_s >= self._stop_at_s and self._kill_at_s == float("inf"):
            self._kill_at_s = now_s + LAST_WORDS_S
            self._stop_at_s = float("inf")
            for job in self._jobs:
                job.signal(signal.SIGTERM)

    # Settling -------------------------------------------------------------------------------------

    def _settle(self, claim: Claim, end: End) -> None:
        """Let the pool know how it ended; what the pool refuses is told, and the loop goes on."""
        try:
            if end.status == 0:
                state, error = self._complete(claim, end)
            elif self._kill_at_s != float("inf"):
                claim.release()
                state, error = "available", None
            else:
                error = end.error()
                state = self._fail(claim, error)
        except ClaimLost as problem:
            became = self._became(claim)
            if became is None:
                self._complain(exits.sentence_of(problem))
                return
            state, error = became
        except TaskExists as problem:
            self._complain(exits.sentence_of(problem))
            return
        self._say(claim, state, end, error)

    def _became(self, claim: Claim) -> tuple[str, str | None] | None:
        """What the command made of the task itself; None if that cannot be said."""
        try:
            return settled.outcome(self._pool, claim)
        except (TaskPoolError, OSError):
            return None

    def _complete(self, claim: Claim, end: End) -> tuple[str, str | None]:
        try:
            claim.complete(as_result(end.output.decode(errors="replace")))
        except InvalidTask as problem:
            return self._fail(claim, str(problem)), str(problem)
        return "completed", None

    def _fail(self, claim: Claim, error: str) -> str:
        state: str = claim.fail(error, retry_after_s=self._arguments.retry_after)
        return state

    def _say(self, claim: Claim, state: str, end: End, error: str | None) -> None:
        if answer.wants_json(self._arguments):
            said: dict[str, Any] = {
                "task_id": claim.task_id,
                "state": state,
                "seconds": round(end.seconds, 3),
            }
            answer.line(said if error is None else said | {"error": error})
        elif error is None:
            what = "completed" if state == "completed" else "given back"
            screen().good(exits.one_line(f"{claim.task_id}: {what} after {end.seconds:.1f} s"))
        else:
            then = "to be tried again" if state == "available" else "for good"
            screen().bad(exits.one_line(f"{claim.task_id}: failed {then}: {error}"))

    def _complain(self, problem: str) -> None:
        exits.complain("work", problem)

"""One run of a command for one claimed task: its processes, its pipes, its end.

The command runs in a process group of its own, which a guard leads: a shell that reads from a pipe
whose other end only we have. When we die, however we die, the kernel closes that pipe, and the
guard kills the group: the task, which the kernel gives back at the same moment, must not be worked
on by two.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any, Final, NamedTuple

_GUARD: Final = ("/bin/sh", "-c", "trap '' HUP INT QUIT TERM; read -r line; kill -KILL 0")
_TAIL_BYTES: Final = 4096
_TAIL_LINES: Final = 20
_CHUNK_BYTES: Final = 65536


class End(NamedTuple):
    """How a command ended."""

    status: int  # negative: the number of the signal that ended it
    output: bytes  # all that it printed
    complaints: str  # the last lines of its stderr
    seconds: float

    def error(self) -> str:
        """What went wrong, for whoever reads the task's failures."""
        if self.status < 0:
            how = f"killed by {signal_name(-self.status)}"
        else:
            how = f"exit status {self.status}"
        return f"{how}: {self.complaints}" if self.complaints else how


class Job:
    """A command that runs.

    Parameters
    ----------
    command : sequence of str
        The command and its arguments.
    task : Mapping
        What it gets on its standard input, as JSON.
    environment : Mapping
        Its environment.
    selector : selectors.BaseSelector
        Where its pipes and its end are registered; with each, as data, a function to call when
        there is something to do.

    Raises
    ------
    OSError
        The command cannot be started; nothing is left running.
    """

    def __init__(
        self,
        command: Sequence[str],
        task: Mapping[str, Any],
        environment: Mapping[str, str],
        selector: selectors.BaseSelector,
    ) -> None:
        self.end: End | None = None
        self._is_finished = False
        self._started_s = time.monotonic()
        self._selector = selector
        self._input = json.dumps(task).encode() + b"\n"
        self._output = bytearray()
        self._complaints = bytearray()
        self._guard = subprocess.Popen(_GUARD, stdin=subprocess.PIPE, process_group=0)
        try:
            self._process = self._start(command, environment)
        except BaseException:
            self._dissolve_group()
            raise

    def _start(
        self, command: Sequence[str], environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            process_group=self._guard.pid,
        )
        # Readable once the process has ended, whoever else still has its pipes open.
        self._pidfd = os.pidfd_open(process.pid)
        self._selector.register(self._pidfd, selectors.EVENT_READ, self._finish)
        for pipe, events, do in (
            (process.stdin, selectors.EVENT_WRITE, self._feed),
            (process.stdout, selectors.EVENT_READ, self._listen),
            (process.stderr, selectors.EVENT_READ, self._overhear),
        ):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
            self._selector.register(pipe, events, do)
        return process

    def signal(self, number: int) -> None:
        """Send a signal to the command and what it has started, but for new process groups.

        Once it has ended: nothing.
        """
        if self._guard.returncode is None:
            os.killpg(self._guard.pid, number)

    def kill(self) -> None:
        """End it now; nothing if it has ended."""
        if not self._is_finished:
            self._process.kill()
            self._finish()

    def _finish(self) -> None:
        # First: if something fails in here, what is done must not be done again. The numbers of
        # the processes and of the pipes may be others' by then.
        self._is_finished = True
        status = self._process.wait()
        # What it has left running must not outlive the claim.
        self._dissolve_group()
        self._selector.unregister(self._pidfd)
        os.close(self._pidfd)
        try:
            while self._listen():
                pass
            while self._overhear():
                pass
        finally:
            for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
                assert pipe is not None
                self._let_go(pipe)
        lines = self._complaints.decode(errors="replace").strip().splitlines()
        seconds = time.monotonic() - self._started_s
        self.end = End(status, bytes(self._output), "\n".join(lines[-_TAIL_LINES:]), seconds)

    def _dissolve_group(self) -> None:
        os.killpg(self._guard.pid, signal.SIGKILL)
        self._guard.wait()
        assert self._guard.stdin is not None
        self._guard.stdin.close()

    def _feed(self) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        try:
            written = stdin.write(self._input) or 0
        except BrokenPipeError:
            written = len(self._input)  # it has read as much as it wanted
        self._input = self._input[written:]
        if not self._input:
            self._let_go(stdin)

    def _listen(self) -> bool:
        assert self._process.stdout is not None
        heard = self._read(self._process.stdout)
        self._output += heard
        return bool(heard)

    def _overhear(self) -> bool:
        """Take some of its stderr, and pass it on."""
        assert self._process.stderr is not None
        heard = self._read(self._process.stderr)
        self._complaints += heard
        del self._complaints[:-_TAIL_BYTES]
        _pass_on(heard)
        return bool(heard)

    def _read(self, pipe: IO[bytes]) -> bytes:
        """What is there; empty at the end, and where there is nothing yet."""
        if pipe.closed:
            return b""
        found = pipe.read(_CHUNK_BYTES)
        if found == b"":
            self._let_go(pipe)
        return found or b""

    def _let_go(self, pipe: IO[bytes]) -> None:
        if not pipe.closed:
            self._selector.unregister(pipe)
            pipe.close()


def _pass_on(heard: bytes) -> None:
    """Write to our own stderr; where that takes nothing, the command still has done its work."""
    try:
        while heard:
            heard = heard[os.write(2, heard) :]
    except OSError:
        pass


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"

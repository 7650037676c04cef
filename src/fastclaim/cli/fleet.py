"""The agent processes of a demo: started together, watched, stopped."""

from __future__ import annotations

import json
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import IO, Final, Self

from .agent_process import GO, READY, Orders
from .job import signal_name

_TICK_S: Final = 0.1
_PATIENCE_S: Final = 5.0


class Fleet:
    """Processes that each run one agent.

    As a context manager: whatever happens inside, no agent is left running.
    """

    def __init__(self) -> None:
        self._agents: list[_Agent] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for agent in self._agents:
            agent.terminate()
        for agent in self._agents:
            agent.bury()

    def start(self, orders: Iterable[Orders]) -> None:
        """Start an agent for each; they wait for `run`.

        Raises
        ------
        OSError
            The system has no room for so many.
        """
        # Blocked, the signal waits, and the agents inherit that: Ctrl-C, which the terminal sends
        # to all processes, is ours alone, and none of them dies of it with a traceback.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for order in orders:
                self._agents.append(_Agent(order))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def run(self, tick: Callable[[], object]) -> None:
        """Let the agents start at the same time, and wait until all have ended.

        Parameters
        ----------
        tick : callable
            Called ten times a second, and once at the end.
        """
        for agent in self._agents:
            agent.wait_until_ready()
        for agent in self._agents:
            agent.go()
        with selectors.DefaultSelector() as selector:
            for agent in self._agents:
                selector.register(agent.output, selectors.EVENT_READ, agent)
            # The kernel closes a dead process's pipe: nobody can die unnoticed.
            while selector.get_map():
                for key, _ in selector.select(_TICK_S):
                    selector.unregister(key.fileobj)
                    key.data.reap()
                tick()
        tick()

    def failures(self) -> list[str]:
        """How agents ended that did not end well."""
        return [problem for agent in self._agents if (problem := agent.failure())]


class _Agent:
    def __init__(self, orders: Orders) -> None:
        self.name = orders.agent_id
        # The same search path: -m would put the working directory before the standard library.
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; from {Orders.__module__} import main; main()"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", code, json.dumps(orders)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._last_words = b""

    @property
    def output(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def wait_until_ready(self) -> None:
        line = self.output.readline()
        if line != READY:
            self._last_words = line

    def go(self) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(GO)
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # it has died; `reap` will see it

    def reap(self) -> None:
        """Take its last words; it has written some, and is about to end, or has ended."""
        self._last_words += self.output.read()
        self._process.wait()

    def failure(self) -> str | None:
        status = self._process.returncode
        if not status:
            return None
        if status < 0:
            return f"{self.name} was killed by {signal_name(-status)}"
        words = self._last_words.decode(errors="backslashreplace").strip()
        return f"{self.name} failed: {words or f'exit status {status}'}"

    def terminate(self) -> None:
        self._process.terminate()

    def bury(self) -> None:
        process = self._process
        try:
            process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass  # what was not sent any more

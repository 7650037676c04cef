"""Real processes that do something with a pool and then stay, until a test ends them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator


class Agent:
    """A forked process that has run `action`, and waits.

    Attributes
    ----------
    said : str
        What `action` returned, as text.
    """

    def __init__(self, action: Callable[[], object]) -> None:
        reading, writing = os.pipe()
        self.process_id = os.fork()
        if self.process_id == 0:
            _stay(action, reading, writing)
        os.close(writing)
        with open(reading, "rb") as pipe:
            self.said = pipe.readline().decode().strip()
        self._ended = False

    def signal(self, number: int) -> None:
        os.kill(self.process_id, number)

    def kill(self) -> None:
        """As `kill -9` does; returns once the process is gone. Again: nothing."""
        if not self._ended:
            self._ended = True
            os.kill(self.process_id, signal.SIGKILL)
            os.waitpid(self.process_id, 0)


def _stay(action: Callable[[], object], reading: int, writing: int) -> None:
    try:
        os.close(reading)
        os.write(writing, f"{action()}\n".encode())
        # Not closed before: grandchildren of the test may have a copy.
        os.close(writing)
        while True:
            signal.pause()
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(writing, f"{type(error).__name__}: {error}\n".encode())
        os._exit(1)


@contextlib.contextmanager
def agent(action: Callable[[], object]) -> Iterator[Agent]:
    """An `Agent` that is killed at the end of the block at the latest."""
    process = Agent(action)
    try:
        yield process
    finally:
        process.kill()


def run(action: Callable[[], object]) -> str:
    """What `action` returns in a forked process that has ended."""
    with agent(action) as process:
        return process.said

"""Every moment at which a process could be killed, one after the other."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator


def deaths(action: Callable[[], object]) -> Iterator[int]:
    """Run `action` in a forked child that is killed before or after one of its system calls, the
    first, the second, ...; yield after each death.

    Ends when a child survives.
    """
    for n in itertools.count(1):
        child = os.fork()
        if child == 0:
            _run_and_die(action, n)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "the action failed"
            return
        assert os.WTERMSIG(status) == signal.SIGKILL
        yield n


def _run_and_die(action: Callable[[], object], n: int) -> None:
    calls = 0

    def count(frame: object, event: str, function: object) -> None:
        nonlocal calls
        if event.startswith("c_") and _is_system_call(function):
            calls += 1
        if calls == n:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        sys.setprofile(count)
        action()
        sys.setprofile(None)
    except BaseException:
        os._exit(1)
    os._exit(0)


def _is_system_call(function: object) -> bool:
    of_module = getattr(function, "__module__", None)
    of_type = type(getattr(function, "__self__", None)).__module__
    return of_module in ("posix", "fcntl", "_io", "io") or of_type == "_io"

"""Signals that end a wait, wherever they find it.

A handler that raises ends a wait most of the time. Python discards what is raised in a weak
reference's callback or in a `__del__`, and importing a module, say, has such callbacks: then the
wait would go on, and whoever sent the signal would wait, too. So it is raised again until it is on
its way.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any, Final, Self

from .exits import Terminated

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
# Long for code that is on its way out, short for a person.
_AGAIN_S: Final = 0.1


class EndOfWait:
    """Within its block signals raise `Terminated`, each until that has been seen.

    Parameters
    ----------
    numbers : iterable of int
        Which signals; those that this process ignores, as nohup has it do, stay ignored.
    told : callable, optional
        Is called with the number of each signal first.
    waits : callable, optional
        Whether there is a wait to be ended; default: all that the block does is one.
    """

    def __init__(
        self,
        numbers: Iterable[int] = STOP_SIGNALS,
        told: Callable[[int], object] = lambda number: None,
        waits: Callable[[], bool] = lambda: True,
    ) -> None:
        self._numbers, self._told, self._waits = tuple(numbers), told, waits
        self._former: dict[int, Any] = {}
        self._number = 0

    def __enter__(self) -> Self:
        self._complain = sys.unraisablehook
        sys.unraisablehook = self._discarded
        self._take(signal.SIGALRM, self._again)
        for number in self._numbers:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._take(number, self._come)
        return self

    def __exit__(self, *_: object) -> None:
        self._waits = lambda: False
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._former.items():
            signal.signal(number, handler)
        sys.unraisablehook = self._complain

    def _take(self, number: int, handler: Callable[[int, FrameType | None], None]) -> None:
        self._former[number] = signal.getsignal(number)
        signal.signal(number, handler)

    def _come(self, number: int, _: FrameType | None) -> None:
        self._number = number
        self._told(number)
        if self._waits():
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
            raise Terminated(number)

    def _again(self, _: int, __: FrameType | None) -> None:
        if self._number and self._waits():
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
            # What is given back and closed on the way out is not to be cut short.
            if not _is_on_its_way(sys.exception()):
                raise Terminated(self._number)

    def _discarded(self, lost: sys.UnraisableHookArgs) -> None:
        """Nothing to tell anybody of: it will be raised again."""
        if not isinstance(lost.exc_value, Terminated):
            self._complain(lost)


def _is_on_its_way(error: BaseException | None) -> bool:
    """Whether the code that a handler interrupts is about to let go of what it has."""
    while error is not None:
        if isinstance(error, Terminated):
            return True
        error = error.__context__
    return False

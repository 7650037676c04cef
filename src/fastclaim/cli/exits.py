"""What the command's exit status says, and the errors that lead to one."""

from __future__ import annotations

from typing import Final

OK: Final = 0
WRONG: Final = 1  # something is lost, doubled or left
BAD_INPUT: Final = 2  # usage, a file that does not hold tasks, a task that cannot be one
SYSTEM: Final = 7  # the system said no
INTERNAL: Final = 70  # EX_SOFTWARE of sysexits.h: a bug of ours
SIGNALLED: Final = 128  # plus the signal's number, as a shell reports it

EXPLAINED: Final = (
    "exit status: 0 well, 1 something is lost, doubled or left, 2 usage or bad input,"
    " 7 the system said no, 130 interrupted"
)


class BadInput(Exception):
    """What the user gave cannot be worked with; one line says why."""


class Terminated(BaseException):
    """A signal that would end the process has come; what is open gets closed on the way out."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number

"""What the command's exit status says, and the errors that lead to one."""

from __future__ import annotations

import sys

from ..errors import (
    ClaimLost,
    InvalidName,
    InvalidTask,
    KeyHeld,
    LockTimeout,
    TaskExists,
    TaskPoolError,
)

OK = 0
NOT_DONE = 1  # nothing to claim, or somebody was faster
WRONG = 1  # something is lost, doubled or left
BAD_INPUT = 2
LOCK_TIMEOUT = 3
NO_SUCH_TASK = 4
INVALID = 5
CLAIM_LOST = 6
SYSTEM = 7
INTERNAL = 70  # EX_SOFTWARE of sysexits.h: a bug of ours
SIGNALLED = 128  # plus the signal's number, as a shell reports it

EXPLAINED = {
    OK: "done",
    NOT_DONE: "nothing to claim, lost the race, or the task exists already (demo, doctor:"
    " something is wrong)",
    BAD_INPUT: "usage, or there is no such input file",
    LOCK_TIMEOUT: "lock timeout",
    NO_SUCH_TASK: "no such task",
    INVALID: "invalid task or name",
    CLAIM_LOST: "claim lost",
    SYSTEM: "the system said no",
    INTERNAL: "a bug in fastclaim",
    SIGNALLED: "plus the number of a signal (130: Ctrl-C)",
}


class Refusal(Exception):
    """An end of the command that is no bug: an exit status, and one line that says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class BadInput(Refusal):
    """What the user gave cannot be worked with."""

    def __init__(self, message: str) -> None:
        super().__init__(BAD_INPUT, message)


class Terminated(BaseException):
    """A signal that would end the process has come; what is open gets closed on the way out."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


def status_of(error: TaskPoolError) -> int:
    """The exit status for what a verb refused."""
    if isinstance(error, LockTimeout):
        return LOCK_TIMEOUT
    if isinstance(error, InvalidTask | InvalidName):
        return INVALID
    if isinstance(error, ClaimLost):
        return CLAIM_LOST
    if type(error) is TaskPoolError:
        return BAD_INPUT  # a URL that is none
    if isinstance(error, OSError) and not isinstance(error, TaskExists):
        return SYSTEM  # a database that cannot be reached
    return NOT_DONE


def sentence_of(error: TaskPoolError) -> str:
    """What a verb refused, in one line that names the holder where one is known."""
    text = one_line(str(error))
    # Who holds a key has another task.
    if error.holder is None or isinstance(error, KeyHeld) or repr(error.holder) in text:
        return text
    return f"{text}; {error.holder!r} has it"


def one_line(text: str) -> str:
    """The text with nothing in it that a terminal or a log would take for more than a letter."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def complain(command: str | None, problem: str) -> None:
    """Say on stderr what went wrong; where nobody can be told, the exit status has to do."""
    name = "fastclaim" if command is None else f"fastclaim {command}"
    try:
        print(f"{name}: {problem}", file=sys.stderr)
    except OSError:
        pass

"""The standard streams, also for a command that was started without some of them.

The kernel gives the number of a closed stream to whatever is opened next, and a print would then
write into a task's file: each gets a stand-in, which can no more be read or written than a closed
one. Only errors go nowhere: who closes stderr does not want to hear of them.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO


def stand_in_for_closed() -> None:
    """Give those that are closed their stand-ins."""
    # In their order: what is opened gets the lowest number that is free.
    if sys.stdin is None:
        sys.stdin = _nothing(os.O_WRONLY, "r")
    if sys.stdout is None:
        sys.stdout = _nothing(os.O_RDONLY, "w")
    if sys.stderr is None:
        sys.stderr = _nothing(os.O_WRONLY, "w")


def _nothing(access: int, mode: str) -> TextIO:
    return open(os.open(os.devnull, access), mode, encoding="utf-8")  # type: ignore[return-value]


def standard_input() -> bytes:
    """All that comes on the standard input; an OSError names it."""
    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        error.filename = "standard input"
        raise

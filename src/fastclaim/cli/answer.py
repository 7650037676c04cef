"""What a command answers: JSON lines to programs, sentences and tables to people.

JSON is kept to ASCII: an id may hold what the terminal's encoding lacks, or half of a character.
"""

from __future__ import annotations

import json
import sys

from ..document import MARK

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Mapping
    from typing import Any

STANDARD_OUTPUT = "standard output"
# What stands in a task for fastclaim and the original alone.
_INTERNAL = (MARK, "claim_lock_acquired_at", "owner")


def wants_json(arguments: argparse.Namespace) -> bool:
    """Whether a program reads the answer."""
    return arguments.json or not sys.stdout.isatty()


def line(value: object, done: str = "") -> None:
    """One JSON value, at once: whoever reads a pipe waits for it.

    Parameters
    ----------
    value : object
        What to print.
    done : str
        What has been done all the same, should the value not be heard of.

    Raises
    ------
    OSError
        It cannot be printed; the error names the standard output, and says what has been done.
    """
    try:
        print(json.dumps(value), flush=True)
    except OSError as error:
        reason = f"{error.strerror}; done all the same: {done}" if done else error.strerror
        raise OSError(error.errno, reason, STANDARD_OUTPUT) from error


def told(task: Mapping[str, Any]) -> dict[str, Any]:
    """A task as it is shown to people and programs."""
    return {name: value for name, value in task.items() if name not in _INTERNAL}


def answer(arguments: argparse.Namespace, value: object, sentence: str) -> None:
    """One JSON value, or a sentence that says the same."""
    if wants_json(arguments):
        line(value, sentence)
    else:
        from .output import screen

        screen().good(sentence)


def tasks(arguments: argparse.Namespace, found: Iterable[Mapping[str, Any]], nothing: str) -> None:
    """Tasks, one a line, as they are or in columns; `nothing`: what to say where there are none."""
    if wants_json(arguments):
        for task in found:
            line(told(task))
    else:
        from . import tables

        tables.print_tasks(found, nothing)

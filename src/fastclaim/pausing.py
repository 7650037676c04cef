"""A pool that nothing may be claimed from for a while: the file `paused`."""

from __future__ import annotations

import errno
import json
import math
import os
import time

from . import layout
from .named_tuple import NamedTuple
from .whole_file import read_whole, write_whole


class Pause(NamedTuple):
    """Why, and until when, nothing may be claimed.

    Attributes
    ----------
    until : float
        Seconds since the epoch; infinity: until somebody resumes.
    reason : str
        What for.
    """

    until: float
    reason: str


def described_pause(pause: Pause) -> str:
    """What a pause says, for people."""
    until = "somebody resumes it" if math.isinf(pause.until) else local_time(pause.until)
    return f"the pool is paused until {until}: {pause.reason or 'no reason was given'}"


def local_time(at_s: float) -> str:
    """A time in seconds since the epoch, for people; with the date, unless it is today's."""
    try:
        at = time.localtime(at_s)
    except (ValueError, OverflowError, OSError):
        return f"{at_s}"
    today = at[:3] == time.localtime()[:3]
    return time.strftime("%H:%M" if today else "%Y-%m-%d %H:%M", at)


def read_pause(tasks: bytes) -> Pause | None:
    """The pause that is in effect now.

    A file that cannot be understood pauses the pool until it is removed: somebody wanted something.
    """
    path = _path(tasks)
    try:
        said = json.loads(read_whole(path))
        until = math.inf if said["until"] is None else float(said["until"])
        if math.isnan(until):
            raise ValueError("neither past nor future")
        pause = Pause(until, str(said.get("reason", "")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, RecursionError, AttributeError, OverflowError):
        return Pause(math.inf, f"{path} is there, and not understood")
    return pause if pause.until > time.time() else None


def pause(tasks: bytes, until: float | None, reason: str) -> None:
    """Write the file."""
    from pathlib import Path  # here: those who only look whether there is a pause need none

    write_whole(Path(_path(tasks)), json.dumps({"until": until, "reason": reason}) + "\n")


def resume(tasks: bytes) -> None:
    """Remove the file, if there is one."""
    path = _path(tasks)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        # Where nothing may be written the kernel says so before it looks.
        if error.errno != errno.EROFS or os.path.lexists(path):
            raise


def _path(tasks: bytes) -> str:
    return os.path.join(os.fsdecode(tasks), layout.PAUSED)

"""The file system that a pool lies on: what kind it is, and whether a journal keeps its order."""

from __future__ import annotations

import os
from typing import Final

_JOURNALED: Final = ("ext4", "xfs")
_NO_JOURNAL: Final = "<none>"


def stays_in_order(device: int) -> bool:
    """Whether overwritten blocks stay where they are, and one journal keeps the order of all.

    Parameters
    ----------
    device : int
        `st_dev` of a directory.
    """
    kind = _kind(device)
    return kind in _JOURNALED and (kind != "ext4" or _journal(device) not in (None, _NO_JOURNAL))


def lacks_journal(device: int) -> bool:
    """Whether this is an ext4 that was made without its journal."""
    return _kind(device) == "ext4" and _journal(device) == _NO_JOURNAL


def _kind(device: int) -> str | None:
    number = _number(device)
    try:
        with open("/proc/self/mountinfo") as file:
            for line in file:
                if line.split()[2] == number:
                    return line.partition(" - ")[2].split()[0]
    except OSError:
        pass  # not Linux, or /proc is not mounted
    return None


def _journal(device: int) -> str | None:
    """What ext4 says of its journal: the id of the thread that writes it, or that there is none."""
    name = os.path.basename(os.path.realpath(f"/sys/dev/block/{_number(device)}"))
    try:
        with open(f"/sys/fs/ext4/{name}/journal_task") as file:
            return file.read().strip()
    except OSError:
        return None


def _number(device: int) -> str:
    return f"{os.major(device)}:{os.minor(device)}"

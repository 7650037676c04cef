"""The file system that a pool lies on: what kind it is, and whether a journal keeps its order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final, NamedTuple

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


class Mount(NamedTuple):
    """A file system, where it is mounted: as the kernel lists it.

    statfs(2) tells a number, which names no FUSE file system.
    """

    number: str  # of its device, as `number_of` has it
    where: str
    kind: str


def mounts() -> Iterator[Mount]:
    """All that this process sees; none, where /proc is not mounted."""
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            for line in file:
                mount, _, source = line.partition(b" - ")
                _, _, number, _, where, *_ = mount.split()
                plain = where.decode("unicode_escape").encode("latin-1")
                yield Mount(number.decode(), os.fsdecode(plain), source.split()[0].decode())
    except OSError:
        return


def _kind(device: int) -> str | None:
    number = number_of(device)
    return next((mount.kind for mount in mounts() if mount.number == number), None)


def _journal(device: int) -> str | None:
    """What ext4 says of its journal: the id of the thread that writes it, or that there is none."""
    name = os.path.basename(os.path.realpath(f"/sys/dev/block/{number_of(device)}"))
    try:
        with open(f"/sys/fs/ext4/{name}/journal_task") as file:
            return file.read().strip()
    except OSError:
        return None


def number_of(device: int) -> str:
    """A device's number, as the kernel writes it."""
    return f"{os.major(device)}:{os.minor(device)}"

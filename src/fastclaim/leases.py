"""When leases end, told by names in `owners/`: no claimer looks through `claimed/` before.

Whoever makes a lease first leaves a file there whose name is the first whole second after its end,
so that leases of one second share one. Who finds nothing to claim hears of new names (`deaths`),
looks through `claimed/` only when one of the seconds has come, and then removes it. A file whose
lease ended in another way, or was never made, costs one look in vain.
"""

from __future__ import annotations

import errno
import math
import os
import time

from . import layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

# Never, for a file name: some 30 000 years.
_LAST_S: Final = 10**12
# Where the pool is not ours to write, claims cannot be bound to processes either.
_MAY_NOT: Final = (errno.EACCES, errno.EPERM, errno.EROFS)
_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_noted: dict[bytes, int] = {}


def note(tasks: bytes, ends_at_s: float) -> None:
    """Let every process know, before it is made, of a lease that ends then (since the epoch).

    Raises
    ------
    OSError
        The system refused; where it is permission that is missing, nobody gets to know.
    """
    second = int(min(max(ends_at_s, 0.0), _LAST_S)) + 1
    directory = os.path.join(tasks, layout.OWNERS.encode())
    path = b"%b/%d%b" % (directory, second, layout.LEASE_SUFFIX.encode())
    if _noted.get(tasks) == second > time.time() and os.path.lexists(path):
        return  # an agent that looks for work again and again
    try:
        try:
            _make(path)
        except FileNotFoundError:
            os.makedirs(directory, exist_ok=True)
            _make(path)
    except OSError as error:
        if error.errno not in _MAY_NOT:
            raise
    _noted[tasks] = second


def _make(path: bytes) -> None:
    # For writing, because its closing is what those who wait are told of.
    os.close(os.open(path, _FLAGS, 0o666))


def note_again(tasks: bytes, ends_at_s: float) -> None:
    """After the claim: if it took until after the lease's end, the file may have been removed."""
    if ends_at_s < time.time():
        try:
            note(tasks, ends_at_s)
        except OSError:
            pass  # the claim stands


def ends(owners: bytes) -> dict[bytes, int]:
    """The files in `owners/`, each with the second that it names, since the epoch."""
    try:
        names = os.listdir(os.fsdecode(owners))
    except (FileNotFoundError, PermissionError):
        return {}  # where it is not ours to look into, others give back what has ended
    found = {b"%b/%b" % (owners, os.fsencode(name)): end_of(name) for name in names}
    return {path: int(end_s) for path, end_s in found.items() if end_s < math.inf}


def end_of(name: str) -> float:
    """The second that such a file's name tells of, since the epoch; infinity: none."""
    stem = name.removesuffix(layout.LEASE_SUFFIX)
    return int(stem) if is_lease(name) and stem.isascii() and stem.isdigit() else math.inf


def is_lease(name: str) -> bool:
    """Whether a file in `owners/` tells of leases."""
    return name.endswith(layout.LEASE_SUFFIX)

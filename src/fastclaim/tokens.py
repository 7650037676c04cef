"""Names that nobody else uses: of processes, of claims, and of temporary files."""

from __future__ import annotations

import itertools
import os

own_id = ""  # this process's, unlike that of any other, its parent included; 12 hexadecimal digits
_numbers = itertools.count()


def _seed() -> None:
    global own_id, _numbers
    own_id = os.urandom(6).hex()
    _numbers = itertools.count(1)


_seed()
os.register_at_fork(after_in_child=_seed)


def new_token() -> str:
    """A string that no other call returns, in this process or another; plain ASCII, 14 or more."""
    return f"{own_id}-{next(_numbers)}"

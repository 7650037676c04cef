"""Names that nobody else uses: of processes, of claims, and of temporary files."""

from __future__ import annotations

import itertools
import os

_prefix = ""
_numbers = itertools.count()


def _seed() -> None:
    global _prefix, _numbers
    _prefix = os.urandom(6).hex()
    _numbers = itertools.count(1)


_seed()
os.register_at_fork(after_in_child=_seed)


def owner_id() -> str:
    """This process's, unlike that of any other, its parent included; 12 hexadecimal digits."""
    return _prefix


def new_token() -> str:
    """A string that no other call returns, in this process or another; plain ASCII, 14 or more."""
    return f"{_prefix}-{next(_numbers):x}"

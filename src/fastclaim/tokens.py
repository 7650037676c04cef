"""Names that nobody else uses: claim tokens, and what temporary files are called."""

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


def new_token() -> str:
    """A string that no other call returns, in this process or another; plain ASCII, 14 or more."""
    return f"{_prefix}-{next(_numbers):x}"

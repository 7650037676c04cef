"""The pool's logger. To import `logging` takes longer than a claim, and few claims say anything."""

from __future__ import annotations

import functools
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from typing import Final

# As `logging` has them.
INFO: Final = 20
WARNING: Final = 30
ERROR: Final = 40


def is_heard(level: int) -> bool:
    """Whether anybody wants lines of this level: below a warning, only who imports `logging`."""
    return (level >= WARNING or "logging" in sys.modules) and logger().isEnabledFor(level)


@functools.cache
def logger() -> logging.Logger:
    """The logger of the pool."""
    import logging

    return logging.getLogger("fastclaim.pool")

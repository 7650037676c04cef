"""How to wait for a lock: adaptively, and never past the timeout."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

FIRST_PAUSE_S: Final = 20e-6
# Pollers that never pause longer starve the kernel threads that finish the holder's fsync.
LONGEST_PAUSE_S: Final = 2e-3


def turns(timeout_s: float | None, longest_pause_s: float = LONGEST_PAUSE_S) -> Iterator[int]:
    """Yield 0, 1, 2, ... for each try: at once, then after growing pauses until it is late.

    Parameters
    ----------
    timeout_s : float or None
        Seconds; 0 and less mean one try, None and infinity as many as it takes.
    longest_pause_s : float
        What the pauses grow to, in seconds.
    """
    yield 0
    # Not above: most claims never wait, and a process that makes one claim is over before long.
    import random

    started_s = time.monotonic()
    pause_s = FIRST_PAUSE_S
    turn = 1
    while (left_s := _left(timeout_s, started_s)) > 0:
        time.sleep(min(pause_s * random.uniform(0.5, 1.0), left_s))
        yield turn
        turn += 1
        pause_s = min(2 * pause_s, longest_pause_s)


def _left(timeout_s: float | None, started_s: float) -> float:
    if timeout_s is None:
        return float("inf")
    return timeout_s - (time.monotonic() - started_s)

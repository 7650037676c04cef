"""What verbs that look at a whole pool return."""

from __future__ import annotations

from typing import NamedTuple


class Pause(NamedTuple):
    """A pool that is not to be claimed from.

    Attributes
    ----------
    until : float
        When it ends, seconds since the epoch; infinity: when somebody says so.
    reason : str
        What for.
    """

    until: float
    reason: str


class RecoveryReport(NamedTuple):
    """What `recover` put right, or would.

    Attributes
    ----------
    returned, failed : list of str
        Tasks whose claim was over: available again, or given up.
    """

    returned: list[str]
    failed: list[str]


class Finding(NamedTuple):
    """What `doctor` found.

    Attributes
    ----------
    level : str
        "ok", "warning" or "error".
    check, message, advice : str
        What was looked at, what was found, and what to do.
    """

    level: str
    check: str
    message: str
    advice: str

"""What verbs that look at a whole pool return."""

from __future__ import annotations

from typing import NamedTuple


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

"""How often something is done again and again."""

from __future__ import annotations

import argparse

from . import options


def interval(text: str) -> float:
    """A length of time that has an end, and is one: without any a processor would be kept busy."""
    value = options.finite_seconds(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time at all; it must be more than 0")
    return value

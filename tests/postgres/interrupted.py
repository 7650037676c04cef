"""Runs of a migration that end in the middle: at each step, before and after what it does."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from types import ModuleType

import pytest


class Interrupted(BaseException):
    """Somebody pulled the plug."""


def interrupter(
    monkeypatch: pytest.MonkeyPatch, migration: ModuleType, steps: Sequence[str]
) -> Callable[[int], None]:
    """What lets the n-th moment of a run be its last; 0 lets the next run come to its end.

    Parameters
    ----------
    monkeypatch : pytest.MonkeyPatch
        Undoes it after the test.
    migration : module
        Whose two sides take the steps.
    steps : sequence of str
        Methods of both.
    """
    originals = {
        (side, name): getattr(side, name)
        for side in (migration._Server, migration._Directory)
        for name in steps
    }

    def interrupt_at(n: int) -> None:
        moments = itertools.count(1)

        def pass_moment() -> None:
            if next(moments) == n:
                raise Interrupted

        def with_moments(step: Callable[..., object]) -> Callable[..., object]:
            def stepping(*args: object) -> object:
                pass_moment()
                result = step(*args)
                pass_moment()
                return result

            return stepping

        for (side, name), step in originals.items():
            monkeypatch.setattr(side, name, with_moments(step))

    return interrupt_at

"""Which directories a transition syncs at "full", and in what order."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fastclaim import TaskPool, _transition_py

AGENT = "a"


@pytest.fixture
def pool(tmp_path: Path) -> TaskPool:
    """On the Python core: the compiled one's calls cannot be listened to."""
    return TaskPool(tmp_path, durability="full", max_attempts=1, _core=_transition_py)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the directories that were synced."""
    names: list[str] = []
    fsync = os.fsync

    def listen(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if os.path.isdir(path):
            names.append(os.path.basename(path))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", listen)
    return names


MOVES: dict[str, tuple[Callable[[TaskPool], object], list[str]]] = {
    "complete": (lambda pool: pool.complete("x", AGENT, "r"), ["completed", "claimed"]),
    "complete with much": (
        lambda pool: pool.complete("x", AGENT, "r" * 2000),
        ["completed", "claimed"],
    ),
    "release": (lambda pool: pool.release("x", AGENT), ["available", "claimed"]),
    "fail": (lambda pool: pool.fail("x", AGENT, "no"), ["failed", "claimed"]),
}


@pytest.mark.parametrize("verb", MOVES)
def test_where_a_task_goes_is_synced_before_where_it_was(
    pool: TaskPool, synced: list[str], verb: str
) -> None:
    act, directories = MOVES[verb]
    pool.publish("x")
    synced.clear()
    pool.claim("x", AGENT)
    assert synced == ["claimed", "available"]
    synced.clear()
    act(pool)
    assert synced == directories


def test_a_retry_syncs_where_the_task_was_too(pool: TaskPool, synced: list[str]) -> None:
    pool.publish("x")
    pool.claim("x", AGENT)
    pool.fail("x", AGENT, "no")
    synced.clear()
    pool.retry_failed("x")
    assert synced == ["available", "failed"]

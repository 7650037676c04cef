"""What every peer is asked to do, so that one measurement fits all.

A *peer* makes stores; a *store* is one empty queue or pool in a fresh directory; a *session* is one
worker's connection to it, made in the process and thread that uses it. What a session returns for a
claim is its *hold*, whatever the peer uses for that, and `ref` says which task it is of: counts of
duplicates and losses rest on it.
"""

from __future__ import annotations

import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

AGENT = "benchmark-agent-1"

Task = dict[str, Any]
Ref = Any
Hold = Any


class Guarantees(NamedTuple):
    """What a number buys; printed beside it."""

    claim_survives: str  # the worst that a claim which has returned survives, on a disk
    dead_claimer: str  # what becomes of a task whose claimer dies
    says_who: bool  # whether the store says who has a task


class Session(ABC):
    """One worker's connection to a store. A peer overrides what it can do."""

    @abstractmethod
    def publish(self, task: Task) -> Ref:
        """Add a task; returns what `claim` and `ref` call it."""

    def claim(self, ref: Ref) -> Hold | None:
        """Claim this very task; None if it is not there to be claimed."""
        raise NotImplementedError

    @abstractmethod
    def claim_next(self) -> Hold | None:
        """Claim whichever task comes next; None if none is left."""

    @abstractmethod
    def ref(self, hold: Hold) -> Ref:
        """Which task it is."""

    @abstractmethod
    def read(self, hold: Hold) -> Task:
        """The claimed task, as the dict that was published."""

    def complete(self, hold: Hold, result: Task) -> None:
        """Mark a claimed task as done."""
        raise NotImplementedError

    def won(self, ref: Ref) -> bool:
        """Claim in the cheapest way that tells only whether it was got; `ref` None: the next."""
        return (self.claim_next() if ref is None else self.claim(ref)) is not None

    def close(self) -> None:  # noqa: B027  (most have nothing to let go of)
        """Let go of the connection."""


Connect = Callable[[], Session]


class Peer(ABC):
    """Something that hands out tasks."""

    name: str
    guarantees: Guarantees
    distributions: ClassVar[tuple[str, ...]] = ()  # what must be installed
    has_ids = True  # can claim a task that the caller names
    has_next = True  # can claim whichever comes next
    completes = True  # knows what became of a task
    drains_only = False  # differs from another only in how teams drain a store
    floor_of: str | None = None  # no rival, but the floor of this workload, and measured there only
    reads_all = False  # every waiting task, for each claim of the next
    largest_pool = 100_000  # beyond this it takes too long to fill, or to claim from
    note = ""  # what a reader must know of how it was configured

    def unavailable(self) -> str | None:
        """Why it cannot be measured here, or None."""
        for name in self.distributions:
            try:
                importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                return f"{name} is not installed: see extra [bench]"
        return None

    def version(self) -> str:
        """Which release is measured."""
        return ", ".join(
            f"{name} {importlib.metadata.version(name)}" for name in self.distributions
        )

    def start(self, directory: Path) -> None:  # noqa: B027  (most have none)
        """Start the server, if there is one, with its data in `directory`, not there yet."""

    def stop(self) -> None:  # noqa: B027
        """End the server."""

    @abstractmethod
    def new_store(self, directory: Path) -> Connect:
        """An empty store in `directory`, which does not exist; returns what makes sessions."""

    def fill(self, session: Session, tasks: Sequence[Task]) -> list[Ref]:
        """Publish many tasks in whatever way is fastest; it is not measured."""
        return [session.publish(task) for task in tasks]

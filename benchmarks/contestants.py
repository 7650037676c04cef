"""Who is measured, and at what. Used by every benchmark, so that all measure the same.

A *batch* is one operation on each of many tasks in a fresh directory; most operations use their
task up, so that a batch can be run once. Everything but the operation itself (making the tasks, the
paths, the libraries) happens before the clock starts, and what the batch did is counted in the
directories after it has stopped.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import logging
import os
import random
import shlex
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import fastclaim
from fastclaim import _transition_py, layout
from fastclaim.directories import Directories
from fastclaim.inotify import Inotify
from fastclaim.locked_inode import LockedInode

try:
    from fastclaim import _transition_c
except ImportError:
    _transition_c = None

try:
    from orchestration import a2a_integration
except ImportError:
    a2a_integration = None

# Importing the original sets the root logger to INFO, and each of its claims then writes a line or
# two to stderr. Its best numbers are those without.
logging.getLogger().setLevel(logging.WARNING)

AGENT = "benchmark-agent-1"
# As long as the median of a fleet of coding agents' real tasks: 230 characters, one requirement.
DESCRIPTION = (
    "Refactor the session store: move the retry loop out of the request handler, give it a bounded"
    " exponential backoff with jitter, keep the public signature, and add tests for a timeout,"
    " for a cancelled request and for a lost peer."
)
REQUIREMENTS = ["python"]
RESULT = {"status": "done", "pull_request": 1432}


class Workload(NamedTuple):
    """What is measured, and with which settings of ours; the original has none."""

    name: str
    verb: str  # "claim", "complete", "miss" or "publish"
    lock_files: bool = True
    durability: str = "data"
    published_by_original: bool = False

    @property
    def durable(self) -> bool:
        """Whether each operation puts its change on the disk."""
        return self.durability != "none"


WORKLOADS = (
    Workload("claim_task (lock files)", "claim"),
    Workload("claim_task (no lock files)", "claim", lock_files=False),
    Workload("claim_task (lock files, original's tasks)", "claim", published_by_original=True),
    Workload("complete_task", "complete"),
    Workload("complete_task (unsynced, as the original)", "complete", durability="none"),
    Workload("miss", "miss"),
    Workload("publish_task", "publish"),
    Workload("publish_task (unsynced, as the original)", "publish", durability="none"),
)


class Batch(NamedTuple):
    """One operation on each of `tasks` tasks, ready to be run, once.

    `run` returns how long it took, ns, and raises RuntimeError if an operation did not do what it
    is there for; `leaves` is the directory with one task file for each, afterwards.
    """

    tasks: int
    run: Callable[[], int]
    leaves: bytes

    def check(self) -> None:
        """Raise RuntimeError unless every task is where the operation puts it."""
        suffix = layout.TASK_SUFFIX.encode()
        count = sum(1 for name in os.listdir(self.leaves) if name.endswith(suffix))
        if count != self.tasks:
            raise RuntimeError(f"{count} of {self.tasks} tasks are in {os.fsdecode(self.leaves)}")


class Contestant(Protocol):
    """Somebody who can be measured, or not: `unavailable` says why."""

    name: str
    unavailable: str | None

    def can(self, workload: Workload) -> bool:
        """Whether the workload makes sense for it."""

    def prepare(self, workload: Workload, base_dir: Path, tasks: int) -> Batch:
        """A batch in the fresh directory `base_dir`."""


class Pool:
    """A contestant with the original's methods: the original, or one of our cores."""

    def __init__(
        self, name: str, make: Callable[[Path, Workload], Any], unavailable: str | None
    ) -> None:
        self.name, self._make, self.unavailable = name, make, unavailable

    def can(self, workload: Workload) -> bool:
        """Whether there are such tasks to work on."""
        return not workload.published_by_original or a2a_integration is not None

    def prepare(self, workload: Workload, base_dir: Path, tasks: int) -> Batch:
        """A batch in the fresh directory `base_dir`."""
        pool = self._make(base_dir, workload)
        publisher = _original(base_dir, workload) if workload.published_by_original else pool
        ids, other_ids = task_ids(tasks), task_ids(tasks, seed=2)
        publications = [(task_id, DESCRIPTION, REQUIREMENTS) for task_id in ids]
        claims = [(task_id, AGENT) for task_id in ids]
        if workload.verb == "publish":
            return _batch(pool.publish_task, publications, pool.available_dir)
        _do_all(publisher.publish_task, publications)
        if workload.verb == "miss":
            misses = [(task_id, AGENT) for task_id in other_ids]
            return _batch(pool.claim_task, misses, pool.available_dir, succeed=False)
        if workload.verb == "claim":
            return _batch(pool.claim_task, claims, pool.claimed_dir)
        _do_all(pool.claim_task, claims)
        completions = [(task_id, AGENT, RESULT) for task_id in ids]
        return _batch(pool.complete_task, completions, pool.completed_dir)


class Floor:
    """The system calls alone, in C: see floor.c."""

    def __init__(self) -> None:
        self.name = "floor"
        self.unavailable = None if shutil.which(compiler()[0]) else "there is no C compiler"

    def can(self, workload: Workload) -> bool:
        """There is no floor for tasks of the original: how to replace a file is a choice."""
        return not workload.published_by_original

    def prepare(self, workload: Workload, base_dir: Path, tasks: int) -> Batch:
        """A batch in the fresh directory `base_dir`."""
        pool = fastclaim.TaskPool(base_dir)
        files = Directories(base_dir, workload.durability, workload.lock_files)
        self._files = files
        ids = task_ids(tasks)
        available = [files.available_file(task_id) for task_id in ids]
        claimed = [files.claimed_file(task_id, AGENT) for task_id in ids]
        call: tuple[Any, ...]
        if workload.verb == "publish":
            temporary = [files.temporary_file(files.claimed) for _ in ids]
            size_bytes = _document_bytes(base_dir / "sample")
            call = ("floor_publish", temporary, available, size_bytes, workload.durable)
            return self._batch(call, tasks, files.available)
        _do_all(pool.publish_task, [(task_id, DESCRIPTION, REQUIREMENTS) for task_id in ids])
        if workload.verb == "miss":
            missing = [files.available_file(task_id) for task_id in task_ids(tasks, seed=2)]
            self._inotify = Inotify()
            call = ("floor_miss", missing, files.tasks, self._inotify.descriptor)
            return self._batch(call, tasks, files.available)
        if workload.verb == "claim":
            locks = [files.lock_file(path) for path in available] if workload.lock_files else None
            call = ("floor_claim", available, locks, claimed, workload.durable)
            return self._batch(call, tasks, files.claimed)
        _do_all(pool.claim_task, [(task_id, AGENT) for task_id in ids])
        completed = [files.completed_file(task_id) for task_id in ids]
        call = ("floor_complete", claimed, completed, workload.durable)
        return self._batch(call, tasks, files.completed)

    def _batch(self, call: tuple[Any, ...], tasks: int, leaves: bytes) -> Batch:
        name = call[0]
        arguments = [_strings(one) if isinstance(one, list) else one for one in call[1:]]
        library = floor_library()
        function = getattr(library, name)
        function.restype = ctypes.c_int64
        files = self._files

        def run() -> int:
            tasks_directory = files.opened()
            tasks_directory.owner.ensure(tasks_directory.path)
            if name == "floor_publish":
                library.floor_from(-1, -1, ctypes.c_size_t(0), b"")
            else:
                locked = LockedInode(tasks_directory.path)
                library.floor_from(
                    tasks_directory.descriptor,
                    tasks_directory.owner.descriptor,
                    ctypes.c_size_t(tasks_directory.prefix_bytes),
                    locked.name,
                )
            elapsed_ns: int = function(tasks, *arguments)
            if elapsed_ns < 0:
                raise RuntimeError(f"{name}: {os.strerror(ctypes.get_errno())}")
            return elapsed_ns

        return Batch(tasks, run, leaves)


def task_ids(count: int, seed: int = 1) -> list[str]:
    """Ids like those that the original's client makes, the same ones in each call."""
    numbers = random.Random(seed)
    return [str(uuid.UUID(int=numbers.getrandbits(128), version=4)) for _ in range(count)]


def versions() -> str:
    """Who competes, with version numbers."""
    ours = f"fastclaim {importlib.metadata.version('fastclaim')}" if _installed() else "fastclaim"
    if a2a_integration is None:
        return ours
    rival = "jleechanorg-orchestration"
    return f"{ours}, {rival} {importlib.metadata.version(rival)}"


def _installed() -> bool:
    return any(importlib.metadata.distributions(name="fastclaim"))


def _original(base_dir: Path, _: Workload) -> Any:
    assert a2a_integration is not None
    a2a_integration.A2A_BASE_DIR = os.fspath(base_dir)
    return a2a_integration.TaskPool()


def _on_core(core: ModuleType | None) -> Callable[[Path, Workload], Any]:
    def make(base_dir: Path, workload: Workload) -> fastclaim.TaskPool:
        return fastclaim.TaskPool(
            base_dir,
            durability=workload.durability,
            lock_files=workload.lock_files,
            _core=core,
        )

    return make


def _batch(
    verb: Callable[..., object],
    calls: Sequence[tuple[object, ...]],
    leaves: Path,
    succeed: bool = True,
) -> Batch:
    def run() -> int:
        as_wished = 0
        started_ns = time.perf_counter_ns()
        for arguments in calls:
            if bool(verb(*arguments)) is succeed:
                as_wished += 1
        elapsed_ns = time.perf_counter_ns() - started_ns
        if as_wished != len(calls):
            raise RuntimeError(f"{as_wished} of {len(calls)} operations did what they should")
        return elapsed_ns

    return Batch(len(calls), run, os.fsencode(leaves))


def _do_all(verb: Callable[..., object], calls: Sequence[tuple[object, ...]]) -> None:
    for arguments in calls:
        if not verb(*arguments):
            raise RuntimeError(f"a batch cannot be prepared: task {arguments[0]}")


def _document_bytes(base_dir: Path) -> int:
    """The size of a published task."""
    pool = fastclaim.TaskPool(base_dir)
    _do_all(pool.publish_task, [(task_ids(1)[0], DESCRIPTION, REQUIREMENTS)])
    return next(pool.available_dir.iterdir()).stat().st_size


def _strings(paths: Sequence[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * len(paths))(*paths)


def compiler() -> list[str]:
    """The C compiler, as the environment names it."""
    return shlex.split(os.environ.get("CC") or "cc")


@functools.cache
def floor_library() -> ctypes.CDLL:
    """`floor.c`, compiled."""
    source = Path(__file__).with_name("floor.c")
    with tempfile.TemporaryDirectory(prefix="fastclaim-floor-") as directory:
        library = os.path.join(directory, "floor.so")
        flags = ["-O2", "-shared", "-fPIC"]
        subprocess.run([*compiler(), *flags, "-o", library, os.fspath(source)], check=True)
        return ctypes.CDLL(library, use_errno=True)


ORIGINAL = Pool(
    "original",
    _original,
    None if a2a_integration is not None else "the original is not installed: see extra [bench]",
)
PYTHON_CORE = Pool("Python core", _on_core(_transition_py), None)
C_CORE = Pool(
    "C core",
    _on_core(_transition_c),
    None if _transition_c is not None else "the extension was not built",
)
FLOOR = Floor()
# The original first: the others' ratios are to it.
CONTESTANTS: tuple[Contestant, ...] = (ORIGINAL, PYTHON_CORE, C_CORE, FLOOR)

"""A pool on disk: its directories, its files' paths, and how transitions treat them."""

from __future__ import annotations

import os

from . import layout, outcome, transition
from .descriptors import sync_directory
from .errors import InvalidName
from .tasks_directory import TasksDirectory
from .tokens import new_token

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Final

    from .deaths import Deaths

DURABILITIES: Final = {
    "none": outcome.SYNC_NONE,
    "data": outcome.SYNC_DATA,
    "full": outcome.SYNC_FULL,
}


class Directories:
    """Where a pool lies.

    Parameters
    ----------
    base_dir : str or os.PathLike
        The pool's directory; made absolute, so that a later chdir does not move the pool.
    durability : str
        A key of `DURABILITIES`.
    lock_files : bool
        Whether claims and releases also take the original's lock files.
    core : module
        `_transition_c` or `_transition_py`.

    Raises
    ------
    ValueError
        `durability` is none of those.
    """

    def __init__(
        self,
        base_dir: str | os.PathLike[str],
        durability: str,
        lock_files: bool,
        core: ModuleType | None = None,
    ) -> None:
        if durability not in DURABILITIES:
            raise ValueError(f"durability {durability!r} is none of {', '.join(DURABILITIES)}")
        self.base_dir = os.path.abspath(base_dir)
        self.sync = DURABILITIES[durability]
        # Of claims that stamp in place; less than `sync` only inside a batch.
        self.stamp_sync = self.sync
        self.lock_files = lock_files
        self.core = transition.core if core is None else core
        self.tasks_path = os.path.join(self.base_dir, "tasks")
        self.tasks = os.fsencode(self.tasks_path)
        self.available, self.claimed, self.completed, self.failed = (
            os.path.join(self.tasks, state.encode()) for state in layout.STATES
        )
        # Synced in this order: where no journal keeps one, better in both than in neither.
        self.claim_directories = (self.claimed, self.available)
        self.publish_directories = (self.available, self.claimed)
        self._opened: TasksDirectory | None = None
        self.place: object = None  # what the compiled core keeps of us
        self.listening: Deaths | None = None  # from the first question on

    def __getstate__(self) -> dict[str, object]:
        ours = {"core": self.core.NAME, "_opened": None, "place": None, "listening": None}
        return self.__dict__ | ours

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self.core = transition.named(str(state["core"]))

    def for_a_batch(self) -> Directories:
        """The same pool, for claims whose stamps the caller puts on disk together."""
        import copy  # here: few claim in batches

        batch = copy.copy(self)
        batch.stamp_sync = outcome.SYNC_NONE
        return batch

    def make(self) -> None:
        """Make the directories that are not there (again: somebody may clean up /tmp)."""
        changed = [self.tasks_path]
        while self.sync == outcome.SYNC_FULL and not os.path.exists(changed[-1]):
            changed.append(os.path.dirname(changed[-1]))
        for name in (*layout.STATES, layout.OWNERS):
            os.makedirs(os.path.join(self.tasks_path, name), exist_ok=True)
        if self.sync == outcome.SYNC_FULL:
            for directory in changed:
                sync_directory(directory)

    def opened(self) -> TasksDirectory:
        """`tasks/`, open; it may have been moved away or made anew since."""
        return self._opened or self.current()

    def current(self) -> TasksDirectory:
        """`tasks/` as it stands now, open; made, if it is not there."""
        opened = self._opened
        if opened is None or not opened.is_current():
            if not os.path.isdir(self.tasks_path):
                self.make()
            self.place = None  # it has the directory open that we had
            self._opened = opened = TasksDirectory(self.tasks)
        return opened

    def deaths(self) -> Deaths:
        """What tells whether a process that claimed from this pool may have died."""
        if self.listening is None:
            from .deaths import deaths_in  # not before something was missed

            self.listening = deaths_in(self.tasks)
        return self.listening

    def is_quiet(self) -> bool:
        """Whether the kernel has told of no death since `deaths` were last asked about, in vain."""
        deaths, opened = self.listening, self._opened
        return deaths is not None and opened is not None and deaths.is_quiet(opened.status)

    def available_file(self, task_id: object) -> bytes:
        """Path of a waiting task; raises InvalidName."""
        return self.available + b"/" + _file_name(f"{task_id}{layout.TASK_SUFFIX}", task_id)

    def lock_file(self, available_file: bytes) -> bytes | None:
        """Path of the original's lock file for that task, or None where they are not used."""
        if not self.lock_files:
            return None
        return available_file[: -len(layout.TASK_SUFFIX)] + layout.LOCK_SUFFIX.encode()

    def claim_files(self, task_id: object, agent_id: object) -> tuple[bytes, bytes]:
        """Paths of a waiting task and of an agent's claim of it; raises InvalidName."""
        # What can be part of a name can be a name.
        claimed = self.claimed_file(task_id, agent_id)
        return self.available + b"/" + layout.encode(f"{task_id}") + b".json", claimed

    def claimed_file(self, task_id: object, agent_id: object) -> bytes:
        """Path of an agent's claim; raises InvalidName."""
        name = f"{task_id}_{agent_id}{layout.TASK_SUFFIX}"
        return self.claimed + b"/" + _file_name(name, task_id, agent_id)

    def completed_file(self, task_id: object) -> bytes:
        """Path of a completed task; raises InvalidName."""
        return self.completed + b"/" + _file_name(f"{task_id}{layout.COMPLETED_SUFFIX}", task_id)

    def failed_file(self, task_id: object) -> bytes:
        """Path of a task that was given up; raises InvalidName."""
        return self.failed + b"/" + _file_name(f"{task_id}{layout.FAILED_SUFFIX}", task_id)

    def temporary_file(self, directory: bytes) -> bytes:
        """A path in `directory` that nobody else uses."""
        name = f"{layout.TEMPORARY_PREFIX}{new_token()}{layout.TEMPORARY_SUFFIX}"
        return directory + b"/" + name.encode()


def _file_name(name: str, task_id: object, agent_id: object = None) -> bytes:
    try:
        return layout.encode_name(name)
    except ValueError as error:
        ids = f"task id {task_id!r}"
        if agent_id is not None:
            ids += f" with agent id {agent_id!r}"
        raise InvalidName(f"{ids}: {error}", task_id) from None

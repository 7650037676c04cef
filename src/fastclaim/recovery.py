"""What the dead have left: half-made transitions, claims, litter. Nothing here goes by age alone.

Every file is judged twice: by a look, which costs a live process nothing, and again under its
flock, which says that nobody is in the middle of a transition of it. What stands where a task
should go stays, and the task waits for a later pass: nobody ever unlinks a task file.
"""

from __future__ import annotations

import enum
import os
import time
from itertools import islice

from . import layout, leases, listing, outcome, owners
from .descriptors import is_named, try_flock, unlock_and_close
from .directories import Directories
from .document import FAILURES, STATUS, parse_held
from .errors import InvalidName, InvalidTask
from .finishing import Ending, rewrite, waiting_or_failed
from .named_tuple import NamedTuple
from .stamps import available_fields, failed_fields
from .waiting import turns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any, Final

# An original holds a lock file's inode from its open to its flock, which takes microseconds. Taken
# away in between, it would let a second original in.
_LOCK_AGE_S: Final = 60.0
# How long another pass may take with one claim; it needs a millisecond.
_OTHERS_PASS_S: Final = 1.0
# So many names come in one piece or two, within a third of a millisecond.
_FEW_CLAIMS: Final = 512

# What is said of a claim that came to nothing here; the last one is followed by how old it was.
PROCESS_ENDED: Final = "its process ended"
LEASE_EXPIRED: Final = "its lease expired"
OLDER_THAN: Final = "it was older than "
REASONS: Final = (PROCESS_ENDED, LEASE_EXPIRED, OLDER_THAN)


def why_ended(
    claim: Mapping[str, Any], is_alive: Callable[[str], bool], now_s: float
) -> str | None:
    """Why a claim has ended, its owner or its lease; None if it stands.

    Parameters
    ----------
    claim : Mapping
        The claimed task.
    is_alive : callable
        Whether the process with this owner's name lives.
    now_s : float
        Seconds since the epoch.
    """
    if "completed_at" in claim:
        # An original that was overtaken claims a copy of what it has read. If that is a completion,
        # the copy's owner and lease are those of a claim that has ended well.
        return None
    owner = claim.get("owner")
    if isinstance(owner, str) and not is_alive(owner):
        return PROCESS_ENDED
    return LEASE_EXPIRED if _is_before(claim.get("lease_expires_at"), now_s) else None


def _is_before(moment: object, at_s: float) -> bool:
    is_number = isinstance(moment, int | float) and not isinstance(moment, bool)
    return is_number and moment < at_s  # type: ignore[operator]


class RecoveryReport(NamedTuple):
    """What `TaskPool.recover` did, or would do.

    Attributes
    ----------
    returned : list of str
        Ids of tasks that wait again.
    failed : list of str
        Ids of tasks that were given up: their claims came to nothing `max_attempts` times.
    completed : list of str
        Ids of tasks whose completion a death had cut in two.
    removed : list of str
        Paths of temporary files, lock files and owner files of the dead.
    problems : list of str
        What needs a person, each a sentence: files that are no tasks, tasks in two places.
    """

    returned: list[str]
    failed: list[str]
    completed: list[str]
    removed: list[str]
    problems: list[str]

    def __bool__(self) -> bool:
        """Whether a task went anywhere."""
        return bool(self.returned or self.failed or self.completed)


class _Verdict(enum.Enum):
    STANDS = "stands"
    HALF_CLAIM = "half a claim"
    HALF_COMPLETION = "half a completion"
    HALF_FAILURE = "half a failure"
    LOST = "lost"


def recover(
    pool: Directories,
    older_than_s: float | None,
    dry_run: bool,
    max_attempts: int | None,
) -> RecoveryReport:
    """See `TaskPool.recover`."""
    recovery = _Recovery(pool, older_than_s, dry_run, max_attempts)
    recovery.ask_owners()
    recovery.claims()
    recovery.waiting_tasks()
    recovery.given_up_tasks()
    if not dry_run:
        recovery.litter()
        recovery.forget_what_has_ended()
    if recovery.error is not None:
        raise recovery.error
    return recovery.report


def give_back_of_dead_owners(pool: Directories, max_attempts: int | None) -> tuple[bool, bool]:
    """Return the claims whose process or lease has ended.

    Returns
    -------
    tuple
        Whether a task went anywhere, and whether nothing is left for a later look.

    Raises
    ------
    OSError
        The system refused, and no task went anywhere.
    """
    recovery = _Recovery(pool, None, False, max_attempts)
    recovery.ask_owners()
    if not recovery.dead and not recovery.ended:
        return False, True
    recovery.claims()
    recovery.forget_what_has_ended()
    if recovery.error is not None and not recovery.report:
        raise recovery.error
    return bool(recovery.report), not recovery.unsettled


def give_back_claims_of(
    pool: Directories, task_id: object, max_attempts: int | None
) -> bool | None:
    """The same for the claims of one task, whose owners alone are asked.

    Returns
    -------
    bool or None
        Whether a task went anywhere; None, and nothing done, if there are so many claims that it
        is cheaper to ask all owners than to look for this task's.
    """
    paths = list(islice(listing.task_files(pool.claimed), _FEW_CLAIMS + 1))
    if len(paths) > _FEW_CLAIMS:
        return None
    recovery = _Recovery(pool, None, False, max_attempts)
    prefix = os.path.join(os.fsdecode(pool.claimed), f"{task_id}_")
    for path in paths:
        if path.startswith(prefix):
            recovery.claim(path)
    return bool(recovery.report)


class _Recovery:
    """One pass."""

    def __init__(
        self,
        pool: Directories,
        older_than_s: float | None,
        dry_run: bool,
        max_attempts: int | None,
    ) -> None:
        self.pool = pool
        self.older_than_s, self.dry_run, self.max_attempts = older_than_s, dry_run, max_attempts
        self.now_s = time.time()
        self.report = RecoveryReport([], [], [], [], [])
        self._alive: dict[str, bool] = {}
        self.unsettled = False  # something has to wait for a later pass
        self.error: OSError | None = None  # the first that kept a claim from being settled
        self._claimed_by_originals: set[str] = set()
        self.dead: dict[bytes, os.stat_result] = {}
        self.ended: list[bytes] = []

    def ask_owners(self) -> None:
        """Before the claims: who dies after them leaves claims that this pass has not seen."""
        self.dead = _dead_owners(self.pool)
        self.ended = _ended_leases(self.pool, self.now_s)

    # claimed/ -----------------------------------------------------------------------------------

    def claims(self) -> None:
        """Look at every claim."""
        for path in listing.task_files(self.pool.claimed):
            try:
                self.claim(path)
            except OSError as error:  # of that claim: the others go back all the same
                self.error = self.error or error
                self.unsettled = True

    def claim(self, path: str) -> None:
        """Look at one claim."""
        fields = self._look(path)
        if fields is None:
            return
        if self._judge(fields)[0] is not _Verdict.STANDS:
            self._settle(os.fsencode(path), fields)
        elif "claim_token" not in fields:
            self._claimed_by_originals.add(f"{self._task_id(os.fsencode(path), fields)}")

    def _look(self, path: str) -> dict[str, Any] | None:
        try:
            return listing.read_task(path)
        except FileNotFoundError:
            return None
        except InvalidTask as problem:
            self.report.problems.append(f"{problem}")
            return None
        except PermissionError:
            self.report.problems.append(f"{path} is not ours to read")
            if os.path.dirname(path) == os.fsdecode(self.pool.claimed):
                self.unsettled = True  # who may read the claim has to find its owner's file
            return None

    def _judge(self, fields: dict[str, Any]) -> tuple[_Verdict, str]:
        """What is to become of a claim, and why."""
        if "claimed_by" not in fields:
            is_failure = fields.get(STATUS) == layout.FAILED and FAILURES in fields
            return (_Verdict.HALF_FAILURE if is_failure else _Verdict.HALF_CLAIM), ""
        if fields.get(STATUS) == layout.COMPLETED and "result" in fields:
            return _Verdict.HALF_COMPLETION, ""
        reason = why_ended(fields, self._is_alive, self.now_s)
        if reason is not None:
            return _Verdict.LOST, reason
        bound = {} if "completed_at" in fields else fields
        is_unbound = bound.get("owner") is None and "lease_expires_at" not in bound
        if self.older_than_s is None or not is_unbound:
            return _Verdict.STANDS, ""
        if _is_before(fields.get("claimed_at"), self.now_s - self.older_than_s):
            return _Verdict.LOST, f"{OLDER_THAN}{self.older_than_s} s"
        return _Verdict.STANDS, ""

    def _is_alive(self, owner: str) -> bool:
        if owner not in self._alive:
            try:
                path = owners.owner_path(self.pool.tasks, owner)
            except ValueError:
                return True  # no name that a process of ours has
            self._alive[owner] = owners.is_alive(path)
        return self._alive[owner]

    def _settle(self, path: bytes, seen: dict[str, Any]) -> None:
        try:
            self._try_to_settle(path, seen)
        except InvalidName as problem:  # ids that are claimed can be too long for failed/
            self.report.problems.append(f"{os.fsdecode(path)} cannot be moved: {problem}")

    def _try_to_settle(self, path: bytes, seen: dict[str, Any]) -> None:
        task_id = self._task_id(path, seen)
        if task_id is None:
            self.report.problems.append(f"{os.fsdecode(path)} does not tell which task it is")
        elif self.dry_run:
            ending = self._ending(task_id, seen)
            if ending is not None:
                self._tell(task_id, ending)
        else:
            # Another pass may be at it; whoever else holds half a claim is a live claimer.
            is_lost = self._judge(seen)[0] is _Verdict.LOST
            came_to = outcome.BUSY
            for _ in turns(_OTHERS_PASS_S if is_lost else 0):
                came_to = self._settle_held(path, task_id)
                if came_to == outcome.LOST:
                    self.pool.make()  # the directory that it goes to has gone
                    came_to = self._settle_held(path, task_id)
                if came_to != outcome.BUSY:
                    break
            if came_to not in (outcome.DONE, outcome.ABSENT):
                self.unsettled = True

    def _settle_held(self, path: bytes, task_id: str) -> int:
        lock = self.pool.lock_file(self.pool.available_file(task_id))
        came_to, held = self.pool.core.hold(self.pool.current(), path, lock)
        if held is None:
            return int(came_to)
        with held:
            try:
                document = parse_held(held)
            except ValueError:
                return outcome.ABSENT
            ending = self._ending(task_id, document.fields)
            if ending is None or self._task_id(path, document.fields) != task_id:
                return outcome.ABSENT
            came_to = rewrite(self.pool, held, document, ending)
            if came_to == outcome.DONE:
                self._tell(task_id, ending)
            elif came_to == outcome.COLLISION:
                self.report.problems.append(
                    f"task {task_id!r} has to wait: {os.fsdecode(ending.target)} is there"
                )
            return int(came_to)

    def _ending(self, task_id: str, fields: dict[str, Any]) -> Ending | None:
        """How a claim ends, if it does."""
        pool = self.pool
        verdict, why = self._judge(fields)
        if verdict is _Verdict.STANDS:
            return None
        if verdict is _Verdict.LOST:
            tried = failed_fields(fields, why, self.max_attempts, self.now_s)
            return waiting_or_failed(pool, task_id, tried)
        if verdict is _Verdict.HALF_COMPLETION:
            return Ending({}, pool.completed_file(task_id), pool.completed, True, stamped=True)
        if verdict is _Verdict.HALF_FAILURE:
            return Ending({}, pool.failed_file(task_id), pool.failed, True, stamped=True)
        # It says that it waits, unless the completion of a claim without a name was cut in two.
        waits = fields.get(STATUS, layout.AVAILABLE) == layout.AVAILABLE
        waiting = available_fields(fields)
        return Ending(waiting, pool.available_file(task_id), pool.available, False, stamped=waits)

    def _tell(self, task_id: str, ending: Ending) -> None:
        told = {
            self.pool.available: self.report.returned,
            self.pool.failed: self.report.failed,
            self.pool.completed: self.report.completed,
        }
        told[ending.directory].append(task_id)

    def _task_id(self, path: bytes, fields: dict[str, Any]) -> str | None:
        """Which task a claim's file is of: the name alone does not tell where the agent begins."""
        name = os.fsdecode(os.path.basename(path)).removesuffix(layout.TASK_SUFFIX)
        agents = [fields["claimed_by"]] if "claimed_by" in fields else self._agents_cut_short()
        for agent in agents:
            if name.endswith(f"_{agent}"):
                return name.removesuffix(f"_{agent}")
        task_id = f"{fields.get('task_id')}"
        if name.startswith(f"{task_id}_"):
            return task_id
        before, underscore, _ = name.rpartition("_")
        return before if underscore else None

    def _agents_cut_short(self) -> Iterator[object]:
        """Who was about to claim a task that is not in our layout: its new text lies about."""
        for entry in _entries(self.pool.claimed):
            if entry.endswith(layout.TEMPORARY_SUFFIX.encode()):
                try:
                    fields = listing.read_task(entry)
                except (InvalidTask, FileNotFoundError):
                    continue
                if "claimed_by" in fields:
                    yield fields["claimed_by"]

    # available/ ---------------------------------------------------------------------------------

    def waiting_tasks(self) -> None:
        """Look at every waiting task: one that says that it is claimed would wait for ever."""
        for path in listing.task_files(self.pool.available):
            fields = self._look(path)
            task_id = os.path.basename(path).removesuffix(layout.TASK_SUFFIX)
            if task_id in self._claimed_by_originals:
                # It died before its unlink, or is about to unlink: either clean-up can lose it.
                self.report.problems.append(f"task {task_id!r} both waits and is claimed")
                continue
            if fields is None or fields.get(STATUS) != layout.CLAIMED:
                continue
            if any(True for _ in listing.claims_of(self.pool, task_id)):
                self.report.problems.append(f"task {task_id!r} both waits and is claimed")
            elif self.dry_run or self._put_right(os.fsencode(path)):
                self.report.returned.append(task_id)

    def _put_right(self, path: bytes) -> bool:
        _, held = self.pool.core.hold(self.pool.current(), path, self.pool.lock_file(path))
        if held is None:
            return False
        with held:
            try:
                document = parse_held(held)
            except ValueError:
                return False
            if document.fields.get(STATUS) != layout.CLAIMED:
                return False
            ending = Ending(available_fields(document.fields), path, self.pool.available, True)
            return rewrite(self.pool, held, document, ending) == outcome.DONE

    # failed/ ------------------------------------------------------------------------------------

    def given_up_tasks(self) -> None:
        """Look at every task that was given up: one that says that it waits is half a retry."""
        for path in listing.task_files(self.pool.failed):
            fields = self._look(path)
            if fields is None or fields.get(STATUS) != layout.AVAILABLE:
                continue
            task_id = os.path.basename(path).removesuffix(layout.FAILED_SUFFIX)
            if self.dry_run or self._finish_retry(os.fsencode(path), task_id):
                self.report.returned.append(task_id)

    def _finish_retry(self, path: bytes, task_id: str) -> bool:
        target = self.pool.available_file(task_id)
        lock = self.pool.lock_file(target)
        _, held = self.pool.core.hold(self.pool.current(), path, lock)
        if held is None:
            return False
        with held:
            try:
                fields = parse_held(held).fields
            except ValueError:
                return False
            if fields.get(STATUS) != layout.AVAILABLE:
                return False
            came_to = int(held.move(target))
        if came_to == outcome.COLLISION:
            self.report.problems.append(
                f"task {task_id!r} has to wait: {os.fsdecode(target)} is there"
            )
        return came_to == outcome.DONE

    # Litter -------------------------------------------------------------------------------------

    def litter(self) -> None:
        """Remove what nobody holds: temporary files, lock files."""
        from pathlib import Path  # a miss comes to this module, but not to this

        from .whole_file import sweep

        pool = self.pool
        for directory in (pool.tasks, pool.available, pool.claimed, pool.completed, pool.failed):
            self.report.removed.extend(sweep(Path(os.fsdecode(directory))))
        for directory in (pool.available, pool.completed, pool.failed):
            for path in _entries(directory):
                if _is_temporary(path) and os.path.isdir(path) and self._end_prune(path):
                    self.report.removed.append(os.fsdecode(path))
        for path in _entries(self.pool.available):
            if path.endswith(layout.LOCK_SUFFIX.encode()) and self._remove_lock(path):
                self.report.removed.append(os.fsdecode(path))

    def forget_what_has_ended(self) -> None:
        """Remove the files of dead owners and of past leases, unless there is more to do."""
        if self.unsettled:
            return  # the files say that there is something to look after
        for path, asked in self.dead.items():
            if owners.remove_dead(path, asked):
                self.report.removed.append(os.fsdecode(path))
        for path in self.ended:
            try:
                os.unlink(path)
            except (FileNotFoundError, PermissionError):
                pass  # somebody else did it, or it is not ours to remove

    def _end_prune(self, aside: bytes) -> bool:
        """Put back what a prune that was cut in two had taken aside; whether it was."""
        for taken in _entries(aside):
            _, held = self.pool.core.hold(self.pool.current(), taken, None)
            if held is None:
                return False  # a living one is at it
            with held:
                put_back(taken, os.path.join(os.path.dirname(aside), os.path.basename(taken)))
        try:
            os.rmdir(aside)
        except OSError:
            return False  # another's, who was faster; or in use again
        return True

    def _remove_lock(self, path: bytes) -> bool:
        """Unlink a lock file that nobody holds, and nobody can be about to win by."""
        task = path[: -len(layout.LOCK_SUFFIX)] + layout.TASK_SUFFIX.encode()
        try:
            status = os.lstat(path)
            # Truncated by an original's open, whenever it was made.
            if os.path.lexists(task) and status.st_mtime > self.now_s - _LOCK_AGE_S:
                return False
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(path, flags)
        except OSError:
            return False  # gone, or no lock file at all
        try:
            if not (try_flock(descriptor) and is_named(path, descriptor)):
                return False
            os.unlink(path)
        except (FileNotFoundError, PermissionError):
            return False
        finally:
            unlock_and_close(descriptor)
        return True


def _is_temporary(path: bytes) -> bool:
    name = os.path.basename(path)
    return name.startswith(layout.TEMPORARY_PREFIX.encode()) and name.endswith(
        layout.TEMPORARY_SUFFIX.encode()
    )


def put_back(taken: bytes, path: bytes) -> None:
    """Let a file that was taken aside be `path` again, unless another is there by now."""
    from ._core.posix import rename_new  # few ever come here
    from .tasks_directory import AT_FDCWD

    try:
        try:
            rename_new(AT_FDCWD, taken, path)  # no link: those who wait hear of renames
        except FileExistsError:
            os.unlink(taken)
    except FileNotFoundError:
        pass  # somebody else has put it back


def _dead_owners(pool: Directories) -> dict[bytes, os.stat_result]:
    """Owner files whose process has died, and inodes that it kept locked, as they are now."""
    suffixes = (layout.OWNER_SUFFIX.encode(), layout.LOCK_SUFFIX.encode())
    try:
        paths = [path for path in _entries(_owners(pool)) if path.endswith(suffixes)]
    except PermissionError:
        return {}  # not ours to look into: others give back what the dead have left
    asked = ((path, owners.file_of_dead(path)) for path in paths)
    return {path: status for path, status in asked if status is not None}


def _ended_leases(pool: Directories, now_s: float) -> list[bytes]:
    """The files that tell of leases that are over."""
    found = leases.ends(_owners(pool))
    return [path for path, second in found.items() if second <= now_s]


def _owners(pool: Directories) -> bytes:
    return os.path.join(pool.tasks, layout.OWNERS.encode())


def _entries(directory: bytes) -> list[bytes]:
    try:
        names = os.listdir(os.fsdecode(directory))
        return [os.path.join(directory, os.fsencode(name)) for name in names]
    except FileNotFoundError:
        return []

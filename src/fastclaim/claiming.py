"""From waiting to claimed: one claim, with all that can come between."""

from __future__ import annotations

import errno
import os
import time

from . import layout, outcome
from .directories import Directories
from .document import NOT_BEFORE, judge, lay_out, parse_held, timestamp
from .errors import (
    AlreadyClaimed,
    InvalidName,
    InvalidTask,
    LockTimeout,
    NameCollision,
    PoolPaused,
    TaskNotAvailable,
)
from .stamps import UNTIL_ENDED, Hold, agents_stamp, claim_stamp, claimed_fields
from .tasks_directory import TasksDirectory
from .tokens import new_token
from .waiting import turns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, NoReturn

    from .pool import TaskPool

# How often something may have to be seen to before we take the pool for busy.
_LOOKS: Final = 8
# How long a publisher may take to let go of what it has published; it needs microseconds.
_GIVE_BACK_S: Final = 1.0


def claim(
    pool: Directories,
    task_id: object,
    agent_id: object,
    hold: Hold,
    token: str,
    timeout_s: float | None,
    want_document: bool,
    capabilities: bytes | None = None,
    seeker: TaskPool | None = None,
) -> tuple[int, bytes | None]:
    """Claim one task for one agent.

    Parameters
    ----------
    pool : Directories
        Where.
    task_id, agent_id : object
        Which task, for whom; formatted as in an f-string where they become file names.
    hold : Hold
        How long the claim lasts.
    token : str
        What tells this claim from every other.
    timeout_s : float or None
        How long to wait, in seconds, while others are in the middle of a transition of the task.
    want_document : bool
        Whether to return the claimed document.
    capabilities : bytes or None
        If the task's mark does not say that they are enough (see `document.admits`), the task is
        not claimed, nor is it waited for; None claims it whatever it asks for.
    seeker : TaskPool, optional
        If the task is not there and its claimer may have died, asked to bring it back.

    Returns
    -------
    tuple
        `outcome.DONE` and the document (or None), or `outcome.ABSENT` and None. With `capabilities`
        also `outcome.UNJUDGED` and None: it takes the document to tell whether they are enough, and
        `outcome.BUSY` and None: who chooses has others to try.

    Raises
    ------
    AlreadyClaimed, PoolPaused, TaskNotAvailable, LockTimeout, InvalidTask, InvalidName
        See `fastclaim.errors`; the task is where and as it was.
    NameCollision
        Another task's claim has the file name that this one needs; the same.
    OSError
        The system refused; the same.
    """
    # The core refuses ids that make no file name. Where something is made before, they are asked
    # for names first.
    tasks = pool.opened()
    owner = -1
    if hold.owner is not None:
        owner = tasks.owner.descriptor
        if owner < 0:
            pool.claim_files(task_id, agent_id)
            tasks = pool.current()  # a forked child inherits that of a directory that may be gone
            hold, owner = _bound(tasks, hold)
    if pool.lock_files and tasks.locked_inode is None:
        pool.claim_files(task_id, agent_id)
        tasks.expect_locks()
    if type(agent_id) is str and hold.lease_expires_at is None:
        enforcement, fields = agents_stamp(agent_id, hold.owner)
    else:
        pool.claim_files(task_id, agent_id)
        enforcement, fields = claim_stamp(agent_id, hold)
        if hold.lease_expires_at is not None:
            from . import leases

            leases.note(pool.tasks, hold.lease_expires_at)
    came_to, found = pool.core.claim(
        pool,
        tasks,
        task_id,
        agent_id,
        enforcement,
        fields,
        token,
        True,
        owner,
        want_document,
        capabilities,
    )
    if came_to == outcome.QUIET:
        return outcome.ABSENT, None
    if came_to not in (outcome.DONE, outcome.ABSENT, outcome.UNJUDGED):
        if came_to in (outcome.BUSY, outcome.LOST):
            tasks.owner.count_conflict()
        if came_to == outcome.BUSY and capabilities is not None:
            return came_to, None
        attempt = _Attempt(pool, task_id, agent_id, hold, token, want_document, capabilities)
        came_to, found = attempt.go_on(tasks, came_to, found, timeout_s)
    if came_to == outcome.ABSENT and seeker is not None and seeker._bring_back(task_id):
        return claim(pool, task_id, agent_id, hold, token, timeout_s, want_document, capabilities)
    if hold.lease_expires_at is not None:
        leases.note_again(pool.tasks, hold.lease_expires_at)
    return came_to, found


def claim_to_move(
    pool: Directories, task_id: object, agent_id: object, timeout_s: float
) -> bytes | None:
    """Claim a task to move it elsewhere: at any time, during a pause too, its `not_before` kept.

    The claim lasts until somebody ends it. Returns the claimed document, or None where the task is
    not waiting; raises what `claim` raises.
    """
    attempt = _MovingAttempt(pool, task_id, agent_id, UNTIL_ENDED, new_token(), True)
    came_to, found = attempt._try()
    return attempt.go_on(attempt.tasks, came_to, found, timeout_s)[1]


def _bound(tasks: TasksDirectory, hold: Hold) -> tuple[Hold, int]:
    """`hold` and the owner file's descriptor; not bound, where we may not make that file.

    Like the original, a pool needs no more than permission on the directories that tasks are in.
    """
    if hold.owner is None:
        return hold, -1
    try:
        tasks.owner.ensure(tasks.path)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return Hold(None, hold.lease_expires_at), -1
    return hold, tasks.owner.descriptor


class _Attempt:
    """A claim that takes more than one call of the core."""

    def __init__(
        self,
        pool: Directories,
        task_id: object,
        agent_id: object,
        hold: Hold,
        token: str,
        want_document: bool,
        capabilities: bytes | None = None,
    ) -> None:
        self.pool = pool
        self.task_id, self.agent_id, self.hold, self.token = task_id, agent_id, hold, token
        self.path, self.claimed = pool.claim_files(task_id, agent_id)
        self.lock = pool.lock_file(self.path)
        self.want_document, self.capabilities = want_document, capabilities
        self.tasks: TasksDirectory
        self.document: bytes | None = None

    def go_on(
        self, tasks: TasksDirectory, came_to: int, found: Any, timeout_s: float | None
    ) -> tuple[int, bytes | None]:
        """From what the first try came to, to the end."""
        self.tasks = tasks
        for turn in turns(timeout_s):
            if turn > 0:
                came_to, found = self._try()
            came_to = self._resolve(came_to, found)
            if came_to == outcome.LOST:
                # Either somebody was faster, or a directory has gone.
                self.pool.make()
                came_to = self._resolve(*self._try())
            if came_to == outcome.DONE:
                return outcome.DONE, self.document
            if came_to != outcome.BUSY:
                return outcome.UNJUDGED if came_to == outcome.UNJUDGED else outcome.ABSENT, None
        raise LockTimeout(
            f"task {self.task_id!r} was in the middle of others' transitions for {timeout_s} s",
            self.task_id,
        )

    def _try(self) -> tuple[int, Any]:
        """A try after a look: is the pool the same, is it paused, does our owner file stand?"""
        tasks = self.tasks = self.pool.current()
        self.hold, owner = _bound(tasks, self.hold)
        self._check_pause()
        came_to, found = self.pool.core.claim(
            self.pool,
            tasks,
            self.task_id,
            self.agent_id,
            *claim_stamp(self.agent_id, self.hold),
            self.token,
            False,  # a pause that is over may still lie there
            owner,
            self.want_document,
            self.capabilities,
        )
        if came_to == outcome.DONE:
            self.document = found
        return came_to, found

    def _resolve(self, came_to: int, found: Any) -> int:
        """DONE, ABSENT, LOST, BUSY or UNJUDGED, whatever else the core came to."""
        for _ in range(_LOOKS):
            if came_to != outcome.STALE:
                break
            came_to, found = self._try()
        if came_to == outcome.UNPROVEN:
            came_to = self._replace_and_close(found, over_old_claim=False)
        if came_to == outcome.COLLISION:
            came_to = self._claim_over_old_claim()
        if came_to == outcome.CHANGED:
            self._give_back()
            return outcome.BUSY
        if came_to == outcome.NOT_REGULAR:
            raise InvalidTask(f"task {self.task_id!r} is not a regular file", self.task_id)
        return outcome.BUSY if came_to == outcome.STALE else came_to

    def _replace_and_close(self, held: Any, over_old_claim: bool) -> int:
        try:
            with held:
                return self._replace(held, over_old_claim)
        except BaseException:
            held.close()  # again, if that was interrupted in the middle
            raise

    def _replace(self, held: Any, over_old_claim: bool) -> int:
        """Claim a document that is not proven to be ours, as Python's json reads it."""
        from . import exclusive
        from .terms import marked_ns, terms_of

        try:
            document = parse_held(held)
            holder = document.fields.get("claimed_by")
            if document.fields.get("status") == "claimed":
                raise self._claimed_already(holder)
            now_ns = time.time_ns()
            now_s = float(timestamp(now_ns))
            fields = self._claimed_fields(document.fields, now_s)
            mtime_ns = marked_ns(document.fields, now_ns)
            terms = terms_of(document.fields, mtime_ns)
            content = lay_out(fields, document.payload, mtime_ns, terms)
            judge(content)
            keys = exclusive.keys_of(document.fields, self.task_id)
        except InvalidTask:
            raise
        except (ValueError, RecursionError) as error:
            raise InvalidTask(f"task {self.task_id!r} is {error}", self.task_id) from error
        claim_name = os.fsdecode(os.path.basename(self.claimed))
        try:
            with exclusive.held(self.pool, keys, self.task_id, claim_name):
                return self._exchange(held, content, mtime_ns, over_old_claim)
        except exclusive.KeyBusy:
            return outcome.BUSY

    def _claimed_already(self, holder: object) -> AlreadyClaimed:
        words = f"is already claimed by {holder!r}"
        if holder is None:
            from .why import HALF_CLAIMED  # written by another hand: few need it

            words = HALF_CLAIMED
        return AlreadyClaimed(f"task {self.task_id!r} {words}", self.task_id, holder)

    def _exchange(self, held: Any, content: bytes, mtime_ns: int, over_old_claim: bool) -> int:
        temporary = self.pool.temporary_file(self.pool.claimed)
        try:
            held.prepare(temporary, content, mtime_ns, self.pool.sync)
        except FileNotFoundError:
            return outcome.LOST
        result: int = held.claim(
            self.claimed, self.pool.claim_directories, self.pool.sync, over_old_claim
        )
        if result == outcome.DONE and self.want_document:
            self.document = content
        return result

    def _check_pause(self) -> None:
        try:
            os.lstat(os.path.join(os.fsdecode(self.tasks.path), layout.PAUSED))
        except FileNotFoundError:
            return  # nothing to read, nor to import what reads it: others race for this task
        from .pausing import described_pause, read_pause

        pause = read_pause(self.tasks.path)
        if pause is not None:
            raise PoolPaused(described_pause(pause), self.task_id, None, pause.until)

    def _claimed_fields(self, fields: dict[str, Any], now_s: float) -> dict[str, Any]:
        from .matching import epoch_s

        not_before_s = epoch_s(fields.get(NOT_BEFORE))
        if not_before_s is not None and not_before_s > now_s:
            from .pausing import local_time

            raise TaskNotAvailable(
                f"task {self.task_id!r} may not be claimed before {local_time(not_before_s)}",
                self.task_id,
            )
        return claimed_fields(fields, self.agent_id, self.hold, self.token, now_s)

    def _claim_over_old_claim(self) -> int:
        """The claim's name is taken: by this agent's claim of an earlier publication, or not."""
        result, old = self.pool.core.hold(self.tasks, self.claimed, None)
        if old is None:
            # ABSENT: it has gone meanwhile.
            if result not in (outcome.ABSENT, outcome.BUSY, outcome.STALE):
                self._refuse()
            return outcome.BUSY
        with old:
            is_half = self._is_half(old)
            if is_half:
                result = self._move_aside(old)
                if result != outcome.DONE:
                    return result
            result, held = self.pool.core.hold(self.tasks, self.path, self.lock)
            if held is None:
                return int(result)
            return self._replace_and_close(held, over_old_claim=not is_half)

    def _is_half(self, old: Any) -> bool:
        """Whether an old claim of this task and agent is half a claim; refuses any other's."""
        try:
            fields = parse_held(old).fields
        except ValueError:
            self._refuse()
        # Task and agent make the name: if one of the two is ours, so is the other.
        if "claimed_by" in fields:
            is_own = f"{fields['claimed_by']}" == f"{self.agent_id}"
        else:
            is_own = f"{fields.get('task_id')}" == f"{self.task_id}"
        if not is_own:
            self._refuse()
        return "claimed_by" not in fields

    def _move_aside(self, half: Any) -> int:
        """Out of our way with an earlier publication that nobody got: it has to wait again."""
        try:
            aside = self.pool.claimed_file(self.task_id, new_token())
        except InvalidName:
            self._refuse()
        return int(half.move(aside))

    def _refuse(self) -> NoReturn:
        raise NameCollision(
            f"task {self.task_id!r}: another task's claim has the file name that the claim by"
            f" {self.agent_id!r} needs",
            self.task_id,
        )

    def _give_back(self) -> None:
        """Back with what was published while we moved: nobody has read it yet."""
        for _ in turns(_GIVE_BACK_S):
            came_to, moved = self.pool.core.hold(self.tasks, self.claimed, self.lock)
            if came_to != outcome.BUSY:
                break
        if came_to == outcome.BUSY:
            # Its publisher needs longer, and nobody has died: who finds nothing is to look for it.
            from . import leases

            leases.note(self.pool.tasks, time.time() - 1)
        if moved is None:
            return  # recovery is about to do the same, or has done it
        with moved:
            try:
                stamped = "claimed_by" in parse_held(moved).fields
            except ValueError:
                stamped = False
            if not stamped:
                moved.move(self.path)


class _MovingAttempt(_Attempt):
    """A claim by somebody who moves the task to another pool, whatever it waits for."""

    def _check_pause(self) -> None:
        pass

    def _claimed_fields(self, fields: dict[str, Any], now_s: float) -> dict[str, Any]:
        claimed = claimed_fields(fields, self.agent_id, self.hold, self.token, now_s)
        return claimed | ({NOT_BEFORE: fields[NOT_BEFORE]} if NOT_BEFORE in fields else {})

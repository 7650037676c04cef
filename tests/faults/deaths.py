"""Kills a process before every system call of every verb that changes files, and after the last.

    LD_PRELOAD=interpose.so python deaths.py CORE DURABILITY DIRECTORY [VERB]

VERB is a part of the names of the verbs to try; without it all are tried.
Prints one JSON object: how many points were tried, what broke which promise, each verb's number of
calls, which verbs make the same calls with "full" as with "data" and are tried with that only, and
which methods of TaskPool they called.

A *point* is one death of one process: a forked child makes a small pool, does the verb, and is
killed. This process, which lives on, then does what any other agent would do. What it must find is
the outcome of one of two other runs: of a death before the first call, or of one after the last.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final
from unittest import mock

import driver
from driver import AGENT, KILL_AFTER, KILL_BEFORE, STATES, Driver, Verb

from fastclaim import TaskNotAvailable, TaskPool, TaskPoolError, batches, finishing, pruning

# What changes from run to run.
VOLATILE: Final = ("claim_token", "owner", "completed_at", "failed_at", "created_at",
                   "claimed_at", "claim_lock_acquired_at", "lease_expires_at")  # fmt: skip
# Verbs that change several publications, one after the other.
OF_SEVERAL: Final = ("publish_many", "claim_many", "retry_failed of all", "claim over an old claim")
PATIENCE_S: Final = 120.0  # older than any lock file that recovery leaves alone


# The verbs that driver.py does not have ---------------------------------------------------------


def by_dead(act: Callable[[TaskPool], object]) -> Callable[[TaskPool], None]:
    """A process does something, and ends."""

    def prepared(pool: TaskPool) -> None:
        child = os.fork()
        if child == 0:
            try:
                act(driver.again_constructed(pool))
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0

    return prepared


def half_claim(pool: TaskPool) -> None:
    driver.publish_old(pool)
    (pool.available_dir / "x.json").rename(pool.claimed_dir / "x_a.json")


def half_completion(pool: TaskPool) -> None:
    driver.completed(pool)
    (pool.completed_dir / "x_complete.json").rename(pool.claimed_dir / "x_a.json")


def given_up(pool: TaskPool) -> None:
    pool.publish("x", "old", max_attempts=1)
    pool.claim("x", AGENT).fail("first")


def half_failure(pool: TaskPool) -> None:
    given_up(pool)
    (pool.failed_dir / "x_failed.json").rename(pool.claimed_dir / "x_a.json")


def says_claimed(pool: TaskPool) -> None:
    driver.write_foreign(pool.available_dir / "x.json", status="claimed", claimed_by="gone")


def expired(pool: TaskPool) -> None:
    driver.publish_old(pool)
    pool.claim("x", AGENT, lease_s=-1)


def last_try(pool: TaskPool) -> None:
    pool.publish("x", "old", max_attempts=1)
    pool.claim("x", AGENT)


def litter(pool: TaskPool) -> None:
    for path in ("available/.fastclaim-dead.tmp", "claimed/.fastclaim-dead.tmp",
                 "owners/dead.owner", "available/x.lock"):  # fmt: skip
        (pool.tasks_dir / path).touch()
    driver.publish_old(pool)
    age_locks(pool)


def two_given_up(pool: TaskPool) -> None:
    for name in ("x", "y"):
        pool.publish(name, "old", max_attempts=1)
        pool.claim(name, AGENT).fail("first")


def three_waiting(pool: TaskPool) -> None:
    for name in ("x", "y", "z"):
        pool.publish(name, "old")


def paused(pool: TaskPool) -> None:
    driver.publish_old(pool)
    pool.pause(reason="limit")


def with_keys(pool: TaskPool) -> None:
    pool.publish("x", "old", exclusive=["k", "l"])


def recoveries() -> Iterator[Verb]:
    claim = driver.claimed()
    foreign = driver.claimed(prepare=driver.publish_foreign)
    situations: dict[str, Callable[[TaskPool], Any]] = {
        "half a claim": half_claim,
        "half a foreign claim": driver.claimed_foreign(),
        "half a completion": half_completion,
        "half a failure": half_failure,
        "a dead process's claim": by_dead(claim),
        "a dead process's foreign claim": by_dead(foreign),
        "a dead process's last try": by_dead(last_try),
        "an expired lease": expired,
        "a waiting task that says it is claimed": says_claimed,
        "litter": litter,
    }
    for name, prepare in situations.items():
        yield Verb(f"recover {name}", lambda pool, _: pool.recover(), prepare)
    old = driver.claimed_foreign(status="claimed", claimed_by=AGENT, claimed_at=1.5)
    yield Verb("recover an original's claim", lambda pool, _: pool.recover(older_than=60), old)
    yield Verb(
        "claim of a dead process's claim", lambda pool, _: pool.claim("x", "b"), by_dead(claim)
    )


def retries() -> Iterator[Verb]:
    situations = {
        "": driver.claimed(),
        " of a foreign task": driver.claimed(prepare=driver.publish_foreign),
        " of the last try": driver.claimed(prepare=lambda p: p.publish("x", "old", max_attempts=1)),
    }
    for name, prepare in situations.items():
        yield Verb(f"fail{name}", lambda pool, claim: claim.fail("broken"), prepare)
    for name, prepare in list(situations.items())[:2]:
        yield Verb(f"renew{name}", lambda pool, claim: claim.renew(1e9), prepare)
        yield Verb(
            f"release{name}, not_before=",
            lambda pool, claim: claim.release(not_before=1e9),
            prepare,
        )
    yield Verb("retry_failed of one", lambda pool, _: pool.retry_failed("x"), given_up)
    yield Verb("retry_failed of all", lambda pool, _: pool.retry_failed(), two_given_up)
    yield Verb("pause", lambda pool, _: pool.pause(reason="limit"), driver.publish_old)
    yield Verb("pause again", lambda pool, _: pool.pause(reason="another"), paused)
    yield Verb("resume", lambda pool, _: pool.resume(), paused)


def claim_many_on_a_disk(pool: TaskPool, _: object) -> object:
    with mock.patch.object(batches, "_is_on_one_disk", return_value=True):
        return pool.claim_many(AGENT, 3)


def selections() -> Iterator[Verb]:
    yield Verb("claim with a lease", lambda p, _: p.claim("x", AGENT, lease_s=-1),
               driver.publish_old)  # fmt: skip
    yield Verb("claim with keys", driver.claim_for(AGENT), with_keys)
    yield Verb("claim_next", lambda pool, _: pool.claim_next(AGENT), driver.publish_old)
    yield Verb("claim_next, max_claims=1", lambda p, _: p.claim_next(AGENT, max_claims=1),
               driver.publish_old)  # fmt: skip
    yield Verb("claim_many", lambda pool, _: pool.claim_many(AGENT, 3), three_waiting)
    yield Verb("claim_many on a disk", claim_many_on_a_disk, three_waiting)
    for state, prepare in (("completed", driver.completed), ("failed", given_up),
                           ("available", driver.publish_old)):  # fmt: skip
        yield Verb(
            f"prune {state}",
            lambda pool, _, state=state: pool.prune(state, 0, dry_run=False),
            prepare,
        )


def all_verbs() -> list[Verb]:
    # No refusals: they change nothing, whether they are killed or not.
    # No second name for the same calls: the originals' methods are tried in the plain situation.
    skipped = ("publish of a", "of a task published again", "an old directory", "of a big task",
               "of a published_task", "publish_task ", "complete_task ", ", claim_task",
               "if_exists=ignore", "with 2 kB ")  # fmt: skip
    theirs = [
        verb
        for verb in driver.all_verbs()
        if not verb.reads_only
        and (verb.name == "claim, claim_task" or not any(words in verb.name for words in skipped))
    ]
    return [*theirs, *retries(), *recoveries(), *selections()]


# After a death ------------------------------------------------------------------------------------


def age_locks(pool: TaskPool) -> None:
    """As if time had passed: an original may still need a lock file that is a moment old."""
    then_s = time.time() - PATIENCE_S
    with contextlib.suppress(FileNotFoundError):
        for path in pool.available_dir.iterdir():
            if path.suffix == ".lock":
                os.utime(path, (then_s, then_s))


def said_by(path: Path) -> dict[str, Any]:
    """A document without what changes from run to run."""
    task = driver.loads(path)
    task.pop("fastclaim", None)  # whether it is in our layout
    for name in VOLATILE:
        if name in task:
            task[name] = "..."
    if "constraint_enforcement" in task:
        task["constraint_enforcement"] = sorted(task["constraint_enforcement"])
    for failure in task.get("failures", ()):
        failure["at"] = "..."
    return task


def documents(pool: TaskPool) -> dict[str, Any]:
    """All that the pool holds, by file name."""
    found = {}
    for state in STATES:
        with contextlib.suppress(FileNotFoundError):
            for path in (pool.tasks_dir / state).iterdir():
                if path.suffix == ".json" and path.name != driver.BYSTANDER:
                    found[f"{state}/{path.name}"] = said_by(path)
    return found


def litter_in(pool: TaskPool) -> list[str]:
    """What is neither a task, nor a living process's owner file, nor of a key, lease or pause."""
    owner = f"{driver_owner()}.owner"
    return [
        f"{path.relative_to(pool.tasks_dir)}"
        for path in pool.tasks_dir.rglob("*")
        if path.is_file()
        and path.suffix not in (".json", ".key", ".agent")
        and path.name not in (owner, "paused")
        and not (path.suffix == ".lease" and int(path.stem) > time.time())
    ]


def driver_owner() -> str:
    from fastclaim import tokens

    return tokens.own_id


class Aftermath:
    """What a living process finds and does in a pool in which another one has died."""

    def __init__(self, pool: TaskPool) -> None:
        self.complaints: list[tuple[str, str]] = []
        self.torn = self._unreadable(pool)
        age_locks(pool)
        problems = pool.recover().problems
        # A dead agent's claim of a task that was published again: it comes back when that is
        # claimed, and until then its owner's file has to tell that the agent is dead.
        waiting = [problem for problem in problems if "has to wait" in problem]
        self.problems = [
            problem
            for problem in problems
            if driver.BYSTANDER not in problem and problem not in waiting  # it is nobody's claim
        ]
        self.comes_back = bool(waiting)
        self.found = documents(pool)
        again = pool.recover()
        self._is("nothing is left", not again and not again.removed, f"{again}")
        self._is("nothing is left", documents(pool) == self.found, "the second changed something")
        litter = [n for n in litter_in(pool) if not (self.comes_back and n.startswith("owners/"))]
        self._is("no litter", not litter, f"{litter}")
        self._is("readable", not self.torn, self.torn)
        self.paused = pool.paused()
        pool.resume()
        for name in self.found:
            if name.startswith("available/"):
                self._claim(pool, name.removeprefix("available/").removesuffix(".json"))

    def _is(self, promise: str, kept: bool, what: str) -> None:
        if not kept:
            self.complaints.append((promise, what))

    @staticmethod
    def _unreadable(pool: TaskPool) -> str:
        """Before anybody has recovered anything."""
        try:
            documents(pool)
        except ValueError as error:
            return f"{error}"
        return ""

    def _claim(self, pool: TaskPool, task_id: str) -> None:
        """Once, and only once; and what is then acknowledged, stays."""
        try:
            claim = pool.claim(task_id, "first", timeout=0)
            for agent in () if self.comes_back else ("second", AGENT):
                try:
                    pool.claim(task_id, agent, timeout=0)
                    self.complaints.append(("claimable once", f"{agent} got {task_id} too"))
                except TaskNotAvailable:
                    pass
            claim.complete("after a death")
            result = driver.loads(pool.completed_dir / f"{task_id}_complete.json")["result"]
            self._is("claimable once", result == "after a death", f"{task_id}: {result!r}")
        except (TaskPoolError, OSError) as error:
            self.complaints.append(("claimable again", f"{type(error).__name__}: {error}"))

    @property
    def outcome(self) -> dict[str, Any]:
        paused = (
            {} if self.paused is None else {"task_id": "paused", "description": self.paused.reason}
        )
        return self.found | {"paused": paused}


# All points -------------------------------------------------------------------------------------


class Deaths(Driver):
    """All verbs and deaths for one core and durability."""

    def __init__(self, core: str, durability: str, base: Path) -> None:
        super().__init__(core, durability, base)
        self.counts: dict[str, int] = {}
        self.same: list[str] = []
        self.methods: set[str] = set()

    def run(self, part: str) -> None:
        self._look_once()
        for verb in all_verbs():
            if part in verb.name:
                self._try(verb)

    def _look_once(self) -> None:
        """What every child would otherwise have to open for the first time."""
        self._fresh_pool(Verb("", lambda pool, context: None))

    def _try(self, verb: Verb) -> None:
        done, calls = self._survivor(verb, self.durability)
        if self.durability == "full" and calls == self._survivor(verb, "data")[1]:
            self.same.append(verb.name)  # call for call what is tried with "data"
            return
        count = self.counts[verb.name] = len(calls)
        allowed: list[dict[str, Any]] = []
        for action, name, nth in self._deaths(count):
            where = f"{name} call {nth} of {count}"
            if not self._dies(verb, nth, action):
                self.complain("dies", verb, where, "it was not killed")
                continue
            self.points[name] += 1
            after = Aftermath(self._pool_of(verb))
            if not allowed:  # the death before the first call
                allowed = [after.outcome, done.outcome]
            if not is_one_of(after.outcome, allowed, by_task=verb.name.startswith(OF_SEVERAL)):
                told = json.dumps([after.outcome, *allowed])
                self.complain("all or nothing", verb, where, told)
            for promise, what in after.complaints:
                self.complain(promise, verb, where, what)
            if after.problems:
                self.complain("no problems", verb, where, f"{after.problems}")
        for promise, what in done.complaints:
            self.complain(promise, verb, "after it", what)

    @staticmethod
    def _deaths(count: int) -> Iterator[tuple[int, str, int]]:
        """Before each call, which is after the one before it; and after the last."""
        for nth in range(count):
            yield KILL_BEFORE, "before", nth
        yield KILL_AFTER, "after", count - 1

    def complain(self, promise: str, verb: Verb, where: str, what: str) -> None:
        self.broken.append(driver.Broken(promise, verb.name, "killed", where, what))

    def _pool_of(self, verb: Verb) -> TaskPool:
        return TaskPool(self.base, durability=self.durability, _core=self.core, **verb.settings)

    def _survivor(self, verb: Verb, durability: str) -> tuple[Aftermath, list[str]]:
        """What an undisturbed process leaves when it ends, and the calls that it makes."""
        receiver, sender = os.pipe()
        child = os.fork()
        if child == 0:
            self.durability = durability
            _child(lambda: _tell(sender, self._undisturbed(verb)))
        os.close(sender)
        with open(receiver, "rb") as told:
            text = told.read()
        assert os.waitpid(child, 0)[1] == 0, verb.name
        calls, methods = json.loads(text)
        self.methods.update(methods)
        self.points["no death"] += 1
        return Aftermath(self._pool_of(verb)), calls

    def _undisturbed(self, verb: Verb) -> tuple[list[str], list[str]]:
        pool, context = self._prepared(verb)
        called: set[str] = set()
        names = {
            method.__code__: name
            for name, method in vars(TaskPool).items()
            if hasattr(method, "__code__")
        }

        def note(frame: FrameType, event: str, argument: object) -> None:
            if event == "call" and frame.f_code in names:
                called.add(names[frame.f_code])

        self.shim.arm(-1, 0, 0, driver.ALL)
        sys.setprofile(note)
        value = verb.act(pool, context)
        sys.setprofile(None)
        calls = self.shim.disarm()
        assert value != verb.refusal, value
        verb.done(pool, context, value)
        return [call.name for call in calls], sorted(called)

    def _dies(self, verb: Verb, nth: int, action: int) -> bool:
        child = os.fork()
        if child == 0:
            _child(lambda: self._act(verb, nth, action))
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, verb.name
        return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL

    def _act(self, verb: Verb, nth: int, action: int) -> None:
        pool, context = self._prepared(verb)
        self.shim.arm(nth, 0, action, driver.ALL)
        verb.act(pool, context)
        self.shim.disarm()

    def _prepared(self, verb: Verb) -> tuple[TaskPool, Any]:
        pool = self._fresh_pool(verb, warm=False)
        shutil.rmtree(pool.tasks_dir / "keys", ignore_errors=True)
        (pool.tasks_dir / "paused").unlink(missing_ok=True)
        driver.settle(pool, 1.0)
        for lease in pool.tasks_dir.glob("owners/*.lease"):
            lease.unlink()
        context = verb.prepare(pool)
        driver.settle(pool, 2.0)
        return pool, context


def is_one_of(outcome: dict[str, Any], allowed: list[dict[str, Any]], by_task: bool) -> bool:
    """Whether that is what came out; with `by_task`, of each publication by itself."""
    if outcome in allowed or not by_task:
        return outcome in allowed
    found, *others = [_by_task(one) for one in (outcome, *allowed)]
    return all(
        any(found.get(task) == other.get(task) for other in others)
        for task in found.keys() | set().union(*others)
    )


def _by_task(outcome: dict[str, Any]) -> dict[str, Any]:
    """Where each publication is, and what it says."""
    return {
        f"{said.get('task_id')}: {said.get('description')}": (where, said)
        for where, said in outcome.items()
    }


def _tell(sender: int, what: object) -> None:
    with open(sender, "w") as told:
        json.dump(what, told)


def _child(act: Callable[[], object]) -> None:
    """Do this and nothing else: not what the parent does when it ends."""
    try:
        act()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def main(core: str, durability: str, directory: str, part: str = "") -> None:
    finishing.HOLD_TIMEOUT_S = driver.SHORT_S  # type: ignore[misc]
    # Loaded before the first fork, not anew in each child.
    assert pruning
    deaths = Deaths(core, durability, Path(directory))
    deaths.run(part)
    json.dump(
        {
            "points": deaths.points,
            "broken": [list(broken) for broken in deaths.broken],
            "calls": deaths.counts,
            "same": deaths.same,
            "methods": sorted(deaths.methods),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])

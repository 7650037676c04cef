"""Tries every verb with every one of its system calls failing, in one process under interpose.c.

    LD_PRELOAD=interpose.so python driver.py CORE DURABILITY DIRECTORY [VERB]

VERB is a part of the names of the verbs to try; without it all are tried.
Prints one JSON object: how many points were tried, what broke which promise, each verb's calls, and
each verb's number of points.
A *point* is one verb on a fresh small pool with one fault.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import errno
import importlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from fastclaim import AlreadyClaimed, TaskExists, TaskPool, TaskPoolError, finishing
from fastclaim.locked_inode import LockedInode

MARKER: Final = "fault-pool"  # as in interpose.c
ERRNOS: Final = ("ENOSPC", "EIO", "EMFILE", "EACCES", "EROFS", "EINTR")
ERRNOS_FULL: Final = ("EIO", "EINTR")
FAIL, KILL_BEFORE, KILL_AFTER, SHORT, FAIL_AFTER, SHORT_THEN_FAIL = range(1, 7)
PERSISTENT: Final = 64
ALL: Final = ""
# What comes after the deed, or after an error.
CLEANING: Final = ("unlock", "close", "closedir", "unlink")

STATES: Final = ("available", "claimed", "completed", "failed")
# Nobody else is there: who waits, waits for a lock that was left. Two tries must fit in.
SHORT_S: Final = 0.05
BYSTANDER: Final = "bystander.json"
AGENT: Final = "a"
LONG_AGENT: Final = "b" * 240
FOREIGN: Final = {"task_id": "x", "description": "old", "status": "available", "n": 1}
BIG: Final = {"text": "r" * 2000}


class Shim:
    """interpose.c, as it is loaded into this process."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        library.fault_log.restype = ctypes.c_char_p
        library.fault_skip_sync(1)
        self._library = library

    def arm(self, nth: int, number: int, action: int, only: str) -> None:
        self._library.fault_only(only.encode())
        self._library.fault_arm(ctypes.c_long(nth), number, action)

    def disarm(self) -> list[Call]:
        self._library.fault_disarm()
        lines = self._library.fault_log().decode("utf-8", "surrogateescape").splitlines()
        return [Call(*line.split("\t", 3)) for line in lines]


class Call(NamedTuple):
    name: str
    action: str  # what was done to it
    inode: str
    path: str

    @property
    def is_met(self) -> bool:
        """Whether anything was done to it; "failed-too" is what would have failed anyway."""
        return self.action not in ("pass", "failed-too")


class Fault(NamedTuple):
    kind: str
    number: int
    action: int
    only: str = ALL  # the calls that are looked at

    def __str__(self) -> str:
        return f"{self.kind} {errno.errorcode.get(self.number, '')}"


class Verb(NamedTuple):
    """One verb in one situation."""

    name: str
    act: Callable[[TaskPool, Any], object]
    # What makes the situation; its value is `context`.
    prepare: Callable[[TaskPool], Any] = lambda pool: None
    # Asserts that what the verb promises when it succeeds is so.
    done: Callable[[TaskPool, Any, Any], None] = lambda pool, context, value: None
    # What must work at once after a refusal, and after a success.
    again: Callable[[TaskPool, Any], None] = lambda pool, context: None
    onward: Callable[[TaskPool, Any, Any], None] = lambda pool, context, value: None
    refusal: object = OSError  # what a refusal returns, if it does not raise
    # Whether a refusal may leave these files besides what was there.
    partly: Callable[[dict[str, Any]], bool] | None = None
    settings: dict[str, Any] = {}  # noqa: RUF012
    reads_only: bool = False
    links: bool = False  # whether an inode is ready to be linked to the lock file's name


# The situations -----------------------------------------------------------------------------------


def loads(path: Path) -> dict[str, Any]:
    document = json.loads(path.read_bytes().decode())
    assert isinstance(document, dict)
    return document


def write_foreign(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(FOREIGN | changes, indent=2))


def publish_old(pool: TaskPool) -> None:
    pool.publish("x", "old", n=1)


def publish_old_task(pool: TaskPool) -> None:
    pool.publish_task("x", "old", ["r"], {"deadline": 1e12})


def publish_big(pool: TaskPool) -> None:
    pool.publish("x", "old" * 4000)


def publish_foreign(pool: TaskPool) -> None:
    write_foreign(pool.available_dir / "x.json")


def over_old_claim(pool: TaskPool) -> None:
    pool.publish("x", "older")
    pool.claim("x", AGENT)
    pool.publish("x", "old", n=1, if_exists="replace")


def without(state: str, prepare: Callable[[TaskPool], Any]) -> Callable[[TaskPool], Any]:
    """A directory has been cleaned away."""

    def prepared(pool: TaskPool) -> Any:
        context = prepare(pool)
        shutil.rmtree(pool.tasks_dir / state)
        return context

    return prepared


def claimed(agent: object = AGENT, prepare: Callable[[TaskPool], Any] = publish_old) -> Any:
    def prepared(pool: TaskPool) -> Any:
        prepare(pool)
        return pool.claim("x", agent)

    return prepared


def claimed_foreign(**fields: object) -> Callable[[TaskPool], Any]:
    def prepared(pool: TaskPool) -> None:
        write_foreign(pool.claimed_dir / "x_a.json", **fields)

    return prepared


def claimed_over_completion(pool: TaskPool) -> Any:
    pool.publish("x", "older")
    pool.claim("x", AGENT).complete("first")
    pool.publish("x", "old", n=1, if_exists="replace")
    return pool.claim("x", AGENT)


def completed(pool: TaskPool) -> None:
    claimed()(pool).complete()


def crowd(pool: TaskPool) -> None:
    for name in ("p", "q"):
        pool.publish(name, "waiting")
        pool.publish(f"c{name}", "held")
        pool.claim(f"c{name}", f"agent-{name}")
    pool.publish("d", "done")
    pool.claim("d", AGENT).complete(1)


# What success means -------------------------------------------------------------------------------


def is_published(description: str) -> Callable[[TaskPool, Any, object], None]:
    def check(pool: TaskPool, context: object, value: object) -> None:
        task = loads(pool.available_dir / "x.json")
        assert (task["task_id"], task["description"]) == ("x", description), task
        assert task["status"] == "available", task

    return check


def is_claimed(agent: object) -> Callable[[TaskPool, Any, Any], None]:
    def check(pool: TaskPool, context: object, value: Any) -> None:
        task = loads(pool.claimed_dir / f"x_{agent}.json")
        assert task["description"].startswith("old"), task
        assert task["claimed_by"] == agent, task
        assert task["status"] == "claimed", task
        assert not (pool.available_dir / "x.json").exists()
        if isinstance(value, dict):
            assert task == value, (task, value)
        else:
            assert task["claim_token"] == value.token, task

    return check


def is_completed(agent: object, result: object) -> Callable[[TaskPool, Any, object], None]:
    def check(pool: TaskPool, context: object, value: object) -> None:
        task = loads(pool.completed_dir / "x_complete.json")
        assert task["status"] == "completed", task
        assert task["result"] == result, task
        assert task["description"] == "old", task
        assert not (pool.claimed_dir / f"x_{agent}.json").exists()

    return check


def is_released(pool: TaskPool, context: object, value: object) -> None:
    task = loads(pool.available_dir / "x.json")
    assert task["status"] == "available", task
    assert not {"claimed_by", "claim_token", "claimed_at"} & task.keys(), task


def returned(expected: object) -> Callable[[TaskPool, Any, object], None]:
    def check(pool: TaskPool, context: object, value: object) -> None:
        assert value == expected, value

    return check


# What must work at once ---------------------------------------------------------------------------


def another_claims(pool: TaskPool, context: object, value: object = None) -> None:
    claim = pool.claim("x", "another", timeout=0)
    assert claim.task["claimed_by"] == "another"
    claim.complete("by another")
    assert loads(pool.completed_dir / "x_complete.json")["result"] == "by another"


def its_claim_completes(pool: TaskPool, context: object, value: Any) -> None:
    agent = value["claimed_by"] if isinstance(value, dict) else value.agent_id
    token = value["claim_token"] if isinstance(value, dict) else value.token
    pool.complete("x", agent, "onward", token=token)
    assert loads(pool.completed_dir / "x_complete.json")["result"] == "onward"


def completes_again(agent: object, result: object) -> Callable[[TaskPool, Any], None]:
    def check(pool: TaskPool, claim: Any) -> None:
        token = None if claim is None else claim.token
        pool.complete("x", agent, result, token=token)
        is_completed(agent, result)(pool, claim, None)

    return check


def releases_again(agent: object) -> Callable[[TaskPool, Any], None]:
    def check(pool: TaskPool, claim: Any) -> None:
        pool.release("x", agent, token=None if claim is None else claim.token)
        is_released(pool, claim, None)
        another_claims(pool, claim)

    return check


def publishes_again(description: str) -> Callable[[TaskPool, Any], None]:
    def check(pool: TaskPool, context: object) -> None:
        pool.publish("x", description, if_exists="replace")
        is_published(description)(pool, context, None)
        another_claims(pool, context)

    return check


# The verbs ----------------------------------------------------------------------------------------


def publish_three(if_exists: str) -> Callable[[TaskPool, Any], object]:
    tasks = [{"task_id": f"x{i}", "description": "new"} for i in range(3)]
    return lambda pool, context: pool.publish_many(tasks, if_exists=if_exists)


def is_first_of_three(new: dict[str, Any]) -> bool:
    return sorted(new) == [f"available/x{i}.json" for i in range(len(new))] and len(new) < 3


def the_rest_of_three(pool: TaskPool, context: object) -> None:
    there = sum((pool.available_dir / f"x{i}.json").exists() for i in range(3))
    assert publish_three("ignore")(pool, context) == 3 - there


def three_published(pool: TaskPool, context: object, value: object) -> None:
    assert value == 3
    for i in range(3):
        assert loads(pool.available_dir / f"x{i}.json")["description"] == "new"


def exists(verb: Callable[[TaskPool, Any], object]) -> Callable[[TaskPool, Any], object]:
    """The verb is to be refused, whatever happens to its calls."""

    def act(pool: TaskPool, context: object) -> object:
        try:
            return verb(pool, context)
        except TaskExists:
            return "exists"

    return act


def claim_taken(pool: TaskPool, context: object) -> object:
    try:
        return pool.claim("x", "late", timeout=0)
    except AlreadyClaimed as error:
        return f"held by {error.holder}"


def claim_for(agent: object) -> Callable[[TaskPool, Any], object]:
    return lambda pool, context: pool.claim("x", agent, timeout=SHORT_S)


def claim_task_for(agent: Any) -> Callable[[TaskPool, Any], object]:
    return lambda pool, context: pool.claim_task("x", agent, timeout=SHORT_S)


def complete(agent: object, result: object) -> Callable[[TaskPool, Any], object]:
    return lambda pool, claim: pool.complete(
        "x", agent, result, token=None if claim is None else claim.token
    )


def complete_task(agent: Any, result: Any) -> Callable[[TaskPool, Any], object]:
    return lambda pool, context: pool.complete_task("x", agent, result)


def release(agent: object) -> Callable[[TaskPool, Any], object]:
    return lambda pool, claim: pool.release(
        "x", agent, token=None if claim is None else claim.token
    )


def ids(tasks: Any) -> list[str]:
    return sorted(task["task_id"] for task in tasks)


def claims() -> Iterator[Verb]:
    situations = {
        "claim": (publish_old, AGENT),
        "claim of a published_task": (publish_old_task, AGENT),
        "claim of a big task": (publish_big, AGENT),
        "claim of a foreign task": (publish_foreign, AGENT),
        "claim with a long agent id": (publish_old_task, LONG_AGENT),
        "claim over an old claim": (over_old_claim, AGENT),
        "claim without claimed/": (without("claimed", publish_old), AGENT),
    }
    for name, (prepare, agent) in situations.items():
        claim = Verb(
            name,
            claim_for(agent),
            prepare,
            done=is_claimed(agent),
            again=another_claims,
            onward=its_claim_completes,
        )
        yield claim
        if prepare in (publish_old, publish_foreign, over_old_claim):
            yield claim._replace(name=f"{name}, linked lock file", links=True)
        yield claim._replace(name=f"{name}, no lock file", settings={"lock_files": False})
        yield claim._replace(name=f"{name}, claim_task", act=claim_task_for(agent), refusal={})
    yield Verb(
        "claim of a claimed task",
        claim_taken,
        claimed(),
        done=returned(f"held by {AGENT}"),
        again=completes_again(AGENT, 1),
        onward=lambda pool, claim, value: completes_again(AGENT, 1)(pool, claim),
        reads_only=True,
    )


def finishes() -> Iterator[Verb]:
    unstamped = claimed_foreign()
    stamped = claimed_foreign(status="claimed", claimed_by=AGENT, claimed_at=1.5)
    situations = {
        "": (claimed(), AGENT),
        " of a published_task": (claimed(prepare=publish_old_task), AGENT),
        " of a foreign task": (claimed(prepare=publish_foreign), AGENT),
        " of a foreign claim": (stamped, AGENT),
        " of a foreign unstamped claim": (unstamped, AGENT),
        " with a long agent id": (claimed(LONG_AGENT, publish_old_task), LONG_AGENT),
    }
    more = {
        " over an earlier completion": (claimed_over_completion, AGENT),
        " without completed/": (without("completed", claimed()), AGENT),
    }
    results: dict[str, Any] = {"": {"ok": 1}, " with 2 kB": BIG}
    for name, (prepare, agent) in (situations | more).items():
        for size, result in results.items():
            yield Verb(
                f"complete{size}{name}",
                complete(agent, result),
                prepare,
                done=is_completed(agent, result),
                again=completes_again(agent, result),
            )
        yield Verb(
            f"complete_task{name}",
            complete_task(agent, BIG),
            prepare,
            done=is_completed(agent, BIG),
            again=completes_again(agent, BIG),
            refusal=False,
        )
    gone = {" without available/": (without("available", claimed()), AGENT)}
    for name, (prepare, agent) in (situations | gone).items():
        released = Verb(
            f"release{name}",
            release(agent),
            prepare,
            done=is_released,
            again=releases_again(agent),
            onward=another_claims,
        )
        yield released
        if name in ("", " of a foreign task"):
            yield released._replace(name=f"{released.name}, linked lock file", links=True)
    yield Verb(
        "release, no lock file",
        release(AGENT),
        claimed(),
        done=is_released,
        again=releases_again(AGENT),
        onward=another_claims,
        settings={"lock_files": False},
    )
    yield Verb(
        "release of a task published again",
        exists(release(AGENT)),
        over_old_claim,
        done=returned("exists"),
        again=another_claims,
        onward=another_claims,
    )


def publications() -> Iterator[Verb]:
    situations: dict[str, tuple[Callable[[TaskPool], Any], tuple[str, ...]]] = {
        "": (lambda pool: None, ("error", "ignore", "replace")),
        " without available/": (without("available", lambda pool: None), ("error", "replace")),
        " over a waiting task": (publish_old, ("replace",)),
        " over a foreign task": (publish_foreign, ("replace",)),
        " over a completed task": (completed, ("replace",)),
        " over a claimed task": (claimed(), ("replace",)),
    }
    for name, (prepare, policies) in situations.items():
        for if_exists in policies:
            yield Verb(
                f"publish{name}, if_exists={if_exists}",
                lambda pool, context, p=if_exists: pool.publish("x", "new", if_exists=p),
                prepare,
                done=is_published("new"),
                again=publishes_again("again"),
                onward=another_claims,
            )
        yield Verb(
            f"publish_task{name}",
            lambda pool, context: pool.publish_task("x", "new", ["r"], {"deadline": 1e12}),
            prepare,
            done=is_published("new"),
            again=publishes_again("again"),
            onward=another_claims,
            refusal=False,
        )
    for name, prepare in {
        "waiting": publish_old,
        "claimed": claimed(),
        "completed": completed,
    }.items():
        for if_exists, expected in (("error", "exists"), ("ignore", False)):
            yield Verb(
                f"publish of a {name} task, if_exists={if_exists}",
                exists(lambda pool, context, p=if_exists: pool.publish("x", "n", if_exists=p)),
                prepare,
                done=returned(expected),
                again=publishes_again("again"),
            )
    for if_exists in ("error", "replace"):
        yield Verb(
            f"publish_many, if_exists={if_exists}",
            publish_three(if_exists),
            claimed(),
            done=three_published,
            again=the_rest_of_three,
            partly=is_first_of_three,
        )


def listings() -> Iterator[Verb]:
    def reads(
        name: str, act: Callable[[TaskPool, Any], object], expected: object, **more: Any
    ) -> Verb:
        return Verb(name, act, crowd, done=returned(expected), reads_only=True, **more)

    yield reads("tasks available", lambda pool, _: ids(pool.tasks()), ["bystander", "p", "q"])
    yield reads(
        "tasks claimed",
        lambda pool, _: ids(pool.tasks("claimed")),
        ["bystander", "cp", "cq"],
    )
    yield reads("tasks completed", lambda pool, _: ids(pool.tasks("completed")), ["bystander", "d"])
    yield reads(
        "counts",
        lambda pool, _: pool.counts(),
        {"available": 3, "claimed": 3, "completed": 2, "failed": 1},
    )
    yield reads("mine", lambda pool, _: [c.task_id for c in pool.mine("agent-q")], ["cq"])
    yield reads(
        "get_available_tasks",
        lambda pool, _: ids(pool.get_available_tasks()),
        ["bystander", "p", "q"],
    )
    yield Verb(
        "Claim.task",
        lambda pool, claim: claim.task["n"],
        claimed(),
        done=returned(1),
        reads_only=True,
    )


def others() -> Iterator[Verb]:
    yield Verb(
        "TaskPool of a new directory",
        lambda pool, context: again_constructed(pool),
        lambda pool: shutil.rmtree(pool.base_dir),
        done=lambda pool, context, value: publishes_again("x")(pool, context),
        again=lambda pool, context: publishes_again("x")(again_constructed(pool), context),
    )
    yield Verb(
        "TaskPool of an old directory",
        lambda pool, context: again_constructed(pool),
        publish_old,
        done=is_published("old"),
        again=another_claims,
        onward=another_claims,
    )


def again_constructed(pool: TaskPool) -> TaskPool:
    directories = pool._directories
    durability = ("none", "data", "full")[directories.sync]
    return TaskPool(pool.base_dir, durability=durability, _core=directories.core)


def all_verbs() -> list[Verb]:
    return [*publications(), *claims(), *finishes(), *listings(), *others()]


# One point ----------------------------------------------------------------------------------------


class Records(logging.Handler):
    """How many errors were logged."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


class Broken(NamedTuple):
    promise: str
    verb: str
    fault: str
    call: str
    what: str


def is_litter(name: str) -> bool:
    return not name.endswith(".json")


def state_of(pool: TaskPool) -> dict[str, tuple[bytes, int]]:
    """Every file of the pool: its content and its mtime, ns."""
    state = {}
    for directory in STATES:
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(f"{pool.tasks_dir}/{directory}"):
                descriptor = os.open(f"{pool.tasks_dir}/{directory}/{name}", os.O_RDONLY)
                status = os.fstat(descriptor)
                content = os.read(descriptor, status.st_size + 1)
                os.close(descriptor)
                state[f"{directory}/{name}"] = content, status.st_mtime_ns
    return state


def settle(pool: TaskPool, changed_s: float) -> None:
    """Let no call depend on how long ago a directory has changed."""
    with contextlib.suppress(FileNotFoundError):
        os.utime(pool.tasks_dir, (changed_s, changed_s))


def descriptors_but_ready(pool: TaskPool) -> int:
    """How many are open, but for that of an inode that is ready to be linked."""
    opened = pool._directories._opened
    is_ready = opened is not None and opened.locked_inode is not None
    return len(os.listdir("/proc/self/fd")) - is_ready


def places_of(state: dict[str, Any]) -> dict[str, list[str]]:
    """Where each publication's document stands: by its payload, which no transition touches."""
    places = collections.defaultdict(list)
    for name, (raw, _) in state.items():
        if not is_litter(name):
            task = json.loads(raw.decode())
            places[f"{task.get('task_id')}: {task.get('description')}"].append(name)
    return places


class Driver:
    """All verbs and faults for one core and durability."""

    def __init__(self, core: str, durability: str, base: Path) -> None:
        self.core = importlib.import_module(f"fastclaim._transition_{core}")
        self.durability = durability
        self.base = base / MARKER
        self.shim = Shim()
        self.pool: TaskPool | None = None
        self.records = Records()
        logger = logging.getLogger("fastclaim")
        logger.addHandler(self.records)
        logger.propagate = False
        self.points: collections.Counter[str] = collections.Counter()
        self.broken: list[Broken] = []
        self.calls: dict[str, list[str]] = {}
        self.tried: collections.Counter[str] = collections.Counter()  # points, by verb

    def run(self, part: str) -> None:
        for verb in all_verbs():
            if part not in verb.name:
                continue
            calls = self.point(verb, Fault("no fault", 0, 0), -1)
            self.calls[verb.name] = [self._words(call) for call in calls]
            for fault in self.faults():
                only = set(fault.only.split(",")) if fault.only else {c.name for c in calls}
                count = sum(call.name in only for call in calls)
                if fault.kind == "every":
                    self.point(verb, fault, 0)
                else:
                    for nth in range(count):
                        self.point(verb, fault, nth)

    def faults(self) -> Iterator[Fault]:
        # With "full" the same calls come again, and those on directories.
        for name in ERRNOS if self.durability == "data" else ERRNOS_FULL:
            yield Fault("fail", getattr(errno, name), FAIL)
        # The disk stays full, broken, ...: what takes back a first step fails as well.
        for only, number in (
            ("pwrite,write", errno.ENOSPC),
            ("fsync,fdatasync", errno.EIO),
            ("open,opendir", errno.EMFILE),
            ("close,closedir,unlock", errno.EIO),
            ("unlink", errno.EACCES),
        ):
            yield Fault("from then on", number, FAIL | PERSISTENT, only)
        yield Fault("short", 0, SHORT, "pread,read,pwrite,write")
        yield Fault("every", 0, SHORT | PERSISTENT, "pread,read,pwrite,write")
        yield Fault("short, then fail", errno.ENOSPC, SHORT_THEN_FAIL, "pwrite,write")
        made = "pwrite,fsync,fdatasync,flock,rename,renameat2"
        yield Fault("done, but fails", errno.EIO, FAIL_AFTER, made)
        for number in (errno.EINVAL, errno.ENOSYS, errno.EPERM):
            yield Fault("every", number, FAIL | PERSISTENT, "renameat2")

    def point(self, verb: Verb, fault: Fault, nth: int) -> list[Call]:
        pool = self._fresh_pool(verb)
        context = verb.prepare(pool)
        settle(pool, 2.0)
        before = state_of(pool)
        self.records.messages.clear()
        descriptors = descriptors_but_ready(pool)
        error = value = None
        self.shim.arm(nth, fault.number, fault.action, fault.only)
        try:
            value = verb.act(pool, context)
        except Exception as raised:
            error = raised
        finally:
            calls = self.shim.disarm()
        if error is not None:
            error = error.with_traceback(None)
            error.__context__ = None
        self.points[fault.kind] += 1
        self.tried[verb.name] += 1
        met = next((call for call in calls if call.is_met), None)
        words = "" if met is None else self._words(met)

        def complain(promise: str, what: str) -> None:
            self.broken.append(Broken(promise, verb.name, f"{fault}", f"{nth}: {words}", what))

        if descriptors_but_ready(pool) != descriptors:
            complain("descriptors", "a descriptor is open")
        try:
            self._judge(verb, fault, pool, context, before, value, error, calls, complain)
        except AssertionError as failure:
            complain("whole", f"{failure}")
        except Exception as failure:
            complain("works at once", f"{type(failure).__name__}: {failure}")
        return calls

    def _fresh_pool(self, verb: Verb, warm: bool = True) -> TaskPool:
        """With nothing in it but somebody else's task in each state."""
        pool = TaskPool(self.base, durability=self.durability, _core=self.core, **verb.settings)
        if warm:  # what a process opens once: not what is tried here
            tasks = pool._directories.opened()
            tasks.owner.ensure(tasks.path)
            pool._look_after_dead_owners()
            self.pool = pool  # shares with the next one what tells of deaths
        if verb.links:
            tasks = pool._directories.opened()
            tasks.locked_inode = LockedInode(tasks.path)
        for state in STATES:
            directory = f"{self.base}/tasks/{state}"
            names = os.listdir(directory)
            for name in names:
                if name != BYSTANDER:
                    os.unlink(f"{directory}/{name}")
            if BYSTANDER not in names:
                Path(directory, BYSTANDER).write_text('{"task_id": "bystander"}')
        settle(pool, 1.0)
        return pool

    def _judge(
        self,
        verb: Verb,
        fault: Fault,
        pool: TaskPool,
        context: object,
        before: dict[str, Any],
        value: object,
        error: BaseException | None,
        calls: list[Call],
        complain: Callable[[str, str], None],
    ) -> None:
        met = [call for call in calls if call.is_met]
        after = state_of(pool)
        refused = error is not None or (verb.refusal is not OSError and value == verb.refusal)
        releasing = [call for call in met if is_of_held_lock(call, calls)]
        for name in sorted(after):
            path = str(pool.tasks_dir / name)
            if is_litter(name) and not any(
                may_leave(call, path) or (call in releasing and call.path == path) for call in met
            ):
                complain("litter", f"left {name}")
        for first, call in enumerate(calls):
            later = [other for other in calls[first + 1 :] if other.inode == call.inode]
            if (
                call.is_met
                and fault.number != errno.EINTR
                and call.name in ("fsync", "fdatasync")
                and any(other.name in ("fsync", "fdatasync") for other in later)
            ):
                complain("one sync", f"{self._words(call)} failed and was tried again")
        places = places_of(after)
        for task, where in places.items():
            if len(where) > 1 and not task.startswith("bystander"):
                complain("one place", f"{task!r} in {where}")
        if refused:
            if fault.kind == "no fault" or never_an_error(fault):
                complain("succeeds", f"refused: {error!r}")
            elif all(call.name in CLEANING for call in met):
                complain("cleaning", f"refused: {error!r}")
            self._judge_refusal(verb, fault, pool, before, after, error, complain)
            verb.again(pool, context)
            return
        # A directory that has gone is made, and all is tried again.
        tried_again = " without " in verb.name
        harmless = not met or tried_again or fault.number == errno.EINTR or never_an_error(fault)
        ignored = harmless or all(may_be_ignored(call, fault) or call in releasing for call in met)
        if not ignored and not (verb.reads_only and self.records.messages):
            complain("failure is told", f"succeeded: {value!r}"[:200])
        if verb.reads_only:
            if after != before:
                complain("as before", "a verb that only reads changed the pool")
            if self.records.messages:
                return  # left out what it could not read, and said so
        verb.done(pool, context, value)
        lost = {
            task: where
            for task, where in places_of(before).items()
            if task not in places and not self._is_replaced(verb, where)
        }
        if lost:
            complain("one place", f"nowhere: {lost}")
        verb.onward(pool, context, value)

    @staticmethod
    def _is_replaced(verb: Verb, where: list[str]) -> bool:
        """Success replaces the waiting task, the agent's old claim, or the earlier completion."""
        return " over a" in verb.name

    def _judge_refusal(
        self,
        verb: Verb,
        fault: Fault,
        pool: TaskPool,
        before: dict[str, Any],
        after: dict[str, Any],
        error: BaseException | None,
        complain: Callable[[str, str], None],
    ) -> None:
        kept = {name: what for name, what in after.items() if not is_litter(name)}
        new = {name: what for name, what in kept.items() if name not in before}
        if verb.partly is not None and (not new or verb.partly(new)):
            kept = {name: what for name, what in kept.items() if name in before}
        if kept != before:
            complain("as before", difference(before, kept))
        if error is None:
            if not self.records.messages:
                complain("log line", "refused without an ERROR record")
        elif isinstance(error, OSError) and not isinstance(error, TaskPoolError):
            name = error.filename
            if not isinstance(name, str):
                complain("named error", f"the file name is of {type(name).__name__}")
            elif not name.startswith(str(self.base)):
                complain("named error", f"the file name {name!r} is not in the pool")
            if error.errno != fault.number and not isinstance(error, FileExistsError):
                complain("named error", f"{error!r} is not the error of the call")
        else:
            complain("named error", f"{error!r} is no OSError")

    def _words(self, call: Call) -> str:
        path = call.path.removeprefix(str(self.base)).removeprefix("/tasks/").lstrip("/")
        name = os.path.basename(path)
        if name.startswith(".fastclaim-"):
            path = path.replace(name, "TEMPORARY")
        return f"{call.name} {path.replace(LONG_AGENT, 'LONG')}"


def never_an_error(fault: Fault) -> bool:
    """Short reads and writes go on; without renameat2 there is another way."""
    return fault.action & ~PERSISTENT == SHORT or fault.only == "renameat2"


def is_of_held_lock(call: Call, calls: list[Call]) -> bool:
    """Whether it asks, on the way out, about a lock file that is ours already."""
    held = Call("flock", "pass", call.inode, call.path)
    return call.path.endswith(".lock") and held in calls[: calls.index(call)]


def may_leave(call: Call, path: str) -> bool:
    return call.path == path and call.name in ("unlink", "lstat", "stat")


def may_be_ignored(call: Call, fault: Fault) -> bool:
    """Whether a verb may succeed although this call failed."""
    stamped = call.name == "futimens" and not is_temporary(call.path)
    read_only = call.name == "open" and fault.number in (errno.EACCES, errno.EROFS)
    # A claim that is not ours to read is left alone by who looks whether it has ended.
    unreadable = call.name == "pread" and fault.number == errno.EACCES and "/claimed/" in call.path
    unlocking = call.name in ("lstat", "stat") and call.path.endswith(".lock")
    # An inode that is ready to be linked only spares the making of a lock file; and a conflict that
    # cannot be told is not told.
    sparing = "/owners/" in call.path and (call.path.endswith(".lock") or call.name == "pwrite")
    cleaning = call.name in CLEANING
    # os.makedirs() looks whether the directory is there all the same.
    making = call.name in ("mkdir", "stat")
    # A first look at what the rename decides, and FileIO's at what we have asked already.
    looking = call.name in ("lstat", "stat") and call.path.endswith("available/x.json")
    reading = call.name == "fstat" and call.path.endswith(".json")
    # If it cannot be told whether the pool is paused, or our owner file stands, we look again.
    marks = call.name == "fstat" and call.path.endswith(("/tasks", ".owner"))
    aside = marks or sparing or unlocking or cleaning or making or looking or reading
    return aside or stamped or read_only or unreadable


def is_temporary(path: str) -> bool:
    return os.path.basename(path).startswith(".fastclaim-")


def difference(before: dict[str, Any], after: dict[str, Any]) -> str:
    changes = []
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            changes.append(f"{name} has gone")
        elif name not in before:
            changes.append(f"{name} is new: {after[name][0][:100]!r}")
        elif before[name][0] != after[name][0]:
            changes.append(f"{name} has another content: {after[name][0][:100]!r}")
        elif before[name][1] != after[name][1]:
            changes.append(f"{name} has another mtime")
    return "; ".join(changes)


def main(core: str, durability: str, directory: str, part: str = "") -> None:
    finishing.HOLD_TIMEOUT_S = SHORT_S  # type: ignore[misc]
    driver = Driver(core, durability, Path(directory))
    driver.run(part)
    json.dump(
        {
            "points": driver.points,
            "broken": [list(broken) for broken in driver.broken],
            "calls": driver.calls,
            "tried": driver.tried,
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])

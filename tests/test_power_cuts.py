"""What is on disk after a power cut, of tasks that agents were publishing, claiming, completing.

The pool lies on a file system of its own in an image. A cut is a copy of that image: it has what
the file system had written until then, and nothing of what it still had in memory; without a
journal it is repaired, as a boot does. Agents are stopped for as long as the copy takes (not in the
midst of a system call: those come to their end), so that the copy is of one moment. That a disk
loses or reorders what it was told to keep is not tried.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

import pytest

from fastclaim import TaskPool

AGENTS = 2
BATCH = 4  # every other so many tasks are published together
STATES = ("available", "claimed", "completed", "failed")
# Where a task may be, by what was the last that had returned.
AT_LEAST = {
    "published": {"available", "claimed", "completed"},
    "claimed": {"claimed", "completed"},
    "completed": {"completed"},
}
CUTS = int(os.environ.get("FASTCLAIM_CUTS", "6"))
BETWEEN_CUTS_S = 0.05
WITHOUT_JOURNAL = "ext4-without-journal"
MEGABYTES = {"ext4": 64, WITHOUT_JOURNAL: 64, "xfs": 320}
MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F"],
    WITHOUT_JOURNAL: ["mkfs.ext4", "-q", "-F", "-O", "^has_journal"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
}
# The copy has the same UUID as the original, which xfs refuses by itself.
OPTIONS = {"ext4": "loop", WITHOUT_JOURNAL: "loop", "xfs": "loop,nouuid"}


@pytest.fixture(params=["ext4", "xfs"])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file with a file system in it, mounted at `mounted` beside it."""
    with _mounted_image(request.param, tmp_path) as image:
        yield image


@pytest.fixture
def image_without_journal(tmp_path: Path) -> Iterator[Path]:
    """The same, without a journal."""
    with _mounted_image(WITHOUT_JOURNAL, tmp_path) as image:
        yield image


@contextmanager
def _mounted_image(kind: str, tmp_path: Path) -> Iterator[Path]:
    if shutil.which(MAKE[kind][0]) is None:
        pytest.skip(f"there is no {MAKE[kind][0]} here")
    image = tmp_path / f"image.{kind}"
    with open(image, "wb") as file:
        file.truncate(MEGABYTES[kind] << 20)
    subprocess.run([*MAKE[kind], image], check=True)
    mounted = tmp_path / "mounted"
    try:
        _mount(image, mounted)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no loop mounts of {kind} here: {error.stderr.decode().strip()}")
    try:
        yield image
    finally:
        _unmount(mounted)


def _mount(image: Path, where: Path) -> None:
    where.mkdir(exist_ok=True)
    options = OPTIONS[image.suffix[1:]]
    subprocess.run(["mount", "-o", options, image, where], check=True, capture_output=True)


def _repair(image: Path) -> None:
    """What a boot does first with a file system that has no journal to replay."""
    done = subprocess.run(["e2fsck", "-f", "-y", image], check=False, capture_output=True)
    assert done.returncode in (0, 1), done.stdout.decode()


def _unmount(where: Path) -> None:
    subprocess.run(["umount", where], check=True)


def _agent(number: int, base: Path, core: ModuleType, durability: str, log: int) -> int:
    """Start one that publishes, claims and completes, and logs what has returned; its pid."""
    child = os.fork()
    if child:
        return child
    try:
        pool = TaskPool(base, durability=durability, _core=core)
        for count in itertools.count():
            task_id = f"{number}-{count}"
            if not _is_of_batch(count):
                pool.publish(_task(task_id))
                os.write(log, f"published {task_id}\n".encode())
            elif count % BATCH == 0:
                ids = [f"{number}-{each}" for each in range(count, count + BATCH)]
                pool.publish_many([_task(each) for each in ids])
                os.write(log, "".join(f"published {each}\n" for each in ids).encode())
            if count % 4 == 3:
                continue  # it stays there
            claim = pool.claim(task_id, f"agent{number}")
            os.write(log, f"claimed {task_id}\n".encode())
            if count % 4 == 2:
                continue
            claim.complete("r" * (count % 3 * 400))
            os.write(log, f"completed {task_id}\n".encode())
    finally:
        os._exit(1)


def _is_of_batch(count: int) -> bool:
    return count // BATCH % 2 == 1


def _task(task_id: str) -> dict[str, str]:
    return {"task_id": task_id, "payload": "p" * (int(task_id.split("-")[1]) % 5 * 1000)}


def _cut(image: Path, agents: list[int], log: Path) -> tuple[Path, dict[str, str]]:
    """A copy of the image, and what had returned before it was made: by task, the last."""
    for agent in agents:
        os.kill(agent, signal.SIGSTOP)
        _, status = os.waitpid(agent, os.WUNTRACED)
        assert os.WIFSTOPPED(status), "an agent has ended"
    returned = {}
    for line in log.read_text().splitlines():
        what, task_id = line.split()
        returned[task_id] = what
    copy = image.with_name(f"copy{image.suffix}")
    subprocess.run(["cp", "--sparse=always", image, copy], check=True)
    for agent in agents:
        os.kill(agent, signal.SIGCONT)
    return copy, returned


def _tasks_in(base: Path) -> dict[str, str]:
    """The state of each task; each must parse, be whole, and be in one place."""
    found: dict[str, str] = {}
    for state in STATES:
        for path in (base / "tasks" / state).glob("*.json"):
            task_id = _whole_task(path, state)
            assert task_id not in found, f"{task_id} is in {found[task_id]} and in {state}"
            found[task_id] = state
    return found


def _whole_task(path: Path, state: str) -> str:
    """The id of a task that must parse and be whole."""
    task = json.loads(path.read_text())
    task_id: str = task["task_id"]
    assert task["payload"] == _task(task_id)["payload"]
    if state == "completed":
        assert set(task["result"]) <= {"r"}
        assert len(task["result"]) == int(task_id.split("-")[1]) % 3 * 400
    return task_id


def _cuts(
    image: Path, core: ModuleType, durability: str, agents_number: int = AGENTS
) -> Iterator[tuple[dict, Path]]:
    """What had returned before each cut, and where the pool lies after it."""
    base = image.parent / "mounted" / "pool"
    TaskPool(base, durability="full", _core=core)
    os.sync()
    log = image.with_name("log")
    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    agents = [_agent(number, base, core, durability, descriptor) for number in range(agents_number)]
    os.close(descriptor)
    after = image.with_name("after")
    try:
        for _ in range(CUTS):
            time.sleep(BETWEEN_CUTS_S)
            copy, returned = _cut(image, agents, log)
            if WITHOUT_JOURNAL in copy.name:
                _repair(copy)
            _mount(copy, after)
            try:
                yield returned, after / "pool"
            finally:
                _unmount(after)
    finally:
        for agent in agents:
            os.kill(agent, signal.SIGKILL)
            os.waitpid(agent, 0)


@pytest.fixture
def tell(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> Callable[[int, int], None]:
    """Says in the log what was tried."""

    def tell(cuts: int, tasks: int) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{request.node.name}: {cuts} cuts, {tasks} tasks at the last ")

    return tell


def test_a_power_cut_tears_and_loses_no_task_at_data(
    image: Path, core: ModuleType, tell: Callable[[int, int], None]
) -> None:
    cuts, earlier = 0, set()
    for returned, base in _cuts(image, core, "data"):
        found = _tasks_in(base)
        assert earlier <= set(found), "what one cut had, the next has lost"
        # A later publication's sync puts the earlier ones' names on disk, too.
        last = set().union(*(_last(returned, number) for number in range(AGENTS)))
        assert set(returned) - set(found) <= last
        _is_usable(base, core, found)
        cuts, earlier = cuts + 1, set(found)
    assert cuts == CUTS
    tell(cuts, len(earlier))


def test_a_power_cut_undoes_nothing_that_has_returned_at_full(
    image: Path, core: ModuleType, tell: Callable[[int, int], None]
) -> None:
    cuts, tasks = 0, 0
    for returned, base in _cuts(image, core, "full"):
        found = _tasks_in(base)
        for task_id, what in returned.items():
            assert found.get(task_id) in AT_LEAST[what], (task_id, what)
        _is_usable(base, core, found)
        cuts, tasks = cuts + 1, len(returned)
    assert cuts == CUTS
    assert tasks > 0
    tell(cuts, tasks)


def test_without_a_journal_a_cut_tears_no_task_and_loses_at_most_its_name_at_data(
    image_without_journal: Path, core: ModuleType, tell: Callable[[int, int], None]
) -> None:
    cuts, earlier = 0, set()
    for returned, base in _cuts(image_without_journal, core, "data"):
        found = set(_places_in(base)) | _tasks_without_a_name(base)
        assert earlier <= found, "what one cut had, the next has lost"
        last = set().union(*(_last(returned, number) for number in range(AGENTS)))
        assert set(returned) - found <= last
        cuts, earlier = cuts + 1, found
    assert cuts == CUTS
    tell(cuts, len(earlier))


@pytest.mark.parametrize(("number", "at_most"), [(1, 0), (AGENTS, AGENTS)])
def test_without_a_journal_a_cut_undoes_nothing_at_full_that_was_not_in_motion(
    image_without_journal: Path,
    core: ModuleType,
    number: int,
    at_most: int,
    tell: Callable[[int, int], None],
) -> None:
    cuts, tasks = 0, 0
    for returned, base in _cuts(image_without_journal, core, "full", number):
        found = _places_in(base)
        without_a_name = _tasks_without_a_name(base)
        lost = 0
        for task_id, what in returned.items():
            if task_id in found:
                assert found[task_id] <= AT_LEAST[what], (task_id, what)
            else:
                assert task_id in without_a_name
                lost += 1
        # The directory that a task has left is synced last; but another agent may sync it before.
        assert lost <= at_most
        assert sum(len(states) > 1 for states in found.values()) <= number
        cuts, tasks = cuts + 1, len(returned)
    assert cuts == CUTS
    assert tasks > 0
    tell(cuts, tasks)


def _places_in(base: Path) -> dict[str, set[str]]:
    """The states that each task is in; each must parse and be whole wherever it is."""
    found: dict[str, set[str]] = {}
    for state in STATES:
        for path in (base / "tasks" / state).glob("*.json"):
            found.setdefault(_whole_task(path, state), set()).add(state)
    return found


def _tasks_without_a_name(base: Path) -> set[str]:
    """Those that the repair found whole; what was replaced lies there, too, and nobody's bytes."""
    found = set()
    for path in (base.parent / "lost+found").iterdir():
        with suppress(OSError, ValueError, KeyError, TypeError, AssertionError):
            found.add(_whole_task(path, ""))
    return found


def _last(returned: dict[str, str], number: int) -> set[str]:
    """The tasks of the agent's last publication."""
    count = sum(task_id.startswith(f"{number}-") for task_id in returned)
    together = BATCH if _is_of_batch(count - 1) else 1
    return {f"{number}-{each}" for each in range(count - together, count)}


def _is_usable(base: Path, core: ModuleType, found: dict[str, str]) -> None:
    """Recovery gives back what was claimed: no process has come through the cut."""
    pool = TaskPool(base, durability="none", _core=core)
    report = pool.recover()
    assert not report.problems
    after = _tasks_in(base)
    assert set(after) == set(found)
    assert "claimed" not in after.values()

"""What is on disk after a power cut, of tasks that agents were publishing, claiming, completing.

The pool lies on a file system of its own in an image. A cut is a copy of that image: it has what
the file system had written until then, and nothing of what it still had in memory. Agents are
stopped for as long as the copy takes (not in the midst of a system call: those come to their end),
so that the copy is of one moment. That a disk loses or reorders what it was told to keep is not
tried.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from fastclaim import TaskPool

from .images import after_a_boot, copy_of, mounted_image

AGENTS = 2
BATCH = 4  # every other so many tasks are published together
CUTS = int(os.environ.get("FASTCLAIM_CUTS", "6"))
BETWEEN_CUTS_S = 0.05


@pytest.fixture(params=["ext4", "xfs"])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file with a file system in it, mounted at `mounted` beside it."""
    with mounted_image(request.param, tmp_path) as image:
        yield image


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
    copy = copy_of(image)
    for agent in agents:
        os.kill(agent, signal.SIGCONT)
    return copy, returned


def _tasks_in(base: Path) -> dict[str, str]:
    """The state of each task; each must parse, be whole, and be in one place."""
    found: dict[str, str] = {}
    for state in ("available", "claimed", "completed", "failed"):
        for path in (base / "tasks" / state).glob("*.json"):
            task = json.loads(path.read_text())
            task_id = task["task_id"]
            assert task_id not in found, f"{task_id} is in {found[task_id]} and in {state}"
            assert task["payload"] == _task(task_id)["payload"]
            if state == "completed":
                assert set(task["result"]) <= {"r"}
                assert len(task["result"]) == int(task_id.split("-")[1]) % 3 * 400
            found[task_id] = state
    return found


def _cuts(image: Path, core: ModuleType, durability: str) -> Iterator[tuple[dict, dict, Path]]:
    base = image.parent / "mounted" / "pool"
    TaskPool(base, durability="full", _core=core)
    os.sync()
    log = image.with_name("log")
    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    agents = [_agent(number, base, core, durability, descriptor) for number in range(AGENTS)]
    os.close(descriptor)
    try:
        for _ in range(CUTS):
            time.sleep(BETWEEN_CUTS_S)
            copy, returned = _cut(image, agents, log)
            with after_a_boot(copy) as after:
                yield _tasks_in(after / "pool"), returned, after / "pool"
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
    for found, returned, base in _cuts(image, core, "data"):
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
    at_least = {
        "published": {"available", "claimed", "completed"},
        "claimed": {"claimed", "completed"},
        "completed": {"completed"},
    }
    cuts, tasks = 0, 0
    for found, returned, base in _cuts(image, core, "full"):
        for task_id, what in returned.items():
            assert found.get(task_id) in at_least[what], (task_id, what)
        _is_usable(base, core, found)
        cuts, tasks = cuts + 1, len(returned)
    assert cuts == CUTS
    assert tasks > 0
    tell(cuts, tasks)


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

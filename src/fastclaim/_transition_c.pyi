"""The compiled core: what `_transition_py` does, with the GIL released."""

from typing import Final, Self

from .directories import Directories
from .tasks_directory import TasksDirectory

NAME: Final = "c"
OUTCOMES: Final[dict[str, int]]

class Held:
    path: bytes
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def read(self, at_most_bytes: int | None = None) -> bytes: ...
    def move(self, target: bytes, replace: bool = False) -> int: ...
    def prepare(self, temporary: bytes, content: bytes, mtime_ns: int, sync: int) -> None: ...
    def claim(
        self, claimed: bytes, directories: tuple[bytes, bytes], sync: int, replace: bool = False
    ) -> int: ...
    def finish(
        self, target: bytes, directories: tuple[bytes, bytes], sync: int, replace: bool
    ) -> int: ...
    def fileno(self) -> int: ...
    def publish(self, directories: tuple[bytes, bytes], sync: int, replace: bool) -> int: ...

def hold(tasks: TasksDirectory, path: bytes, lock: bytes | None) -> tuple[int, Held | None]: ...
def claim(
    pool: Directories,
    tasks: TasksDirectory,
    task_id: object,
    agent_id: object,
    enforcement: bytes,
    fields: bytes,
    token: str,
    heed_pause: bool,
    owner: int,
    want_document: bool,
    capabilities: bytes | None = None,
) -> tuple[int, Held | bytes | None]: ...
def finish(
    tasks: TasksDirectory,
    path: bytes,
    lock: bytes | None,
    target: bytes,
    directories: tuple[bytes, bytes],
    expected: bytes,
    status: bytes,
    fields: bytes | None,
    result: bytes,
    temporary: bytes,
    sync: int,
    replace: bool,
) -> tuple[int, Held | None]: ...
def publish(
    temporary: bytes,
    target: bytes,
    directories: tuple[bytes, bytes],
    content: bytes,
    mtime_ns: int,
    sync: int,
) -> int: ...
def prepare_new(
    temporary: bytes, target: bytes, content: bytes, mtime_ns: int, sync: int
) -> tuple[int, Held | None]: ...
def read(
    path: str | bytes, at_most_bytes: int, tasks: TasksDirectory | None = None
) -> bytes | None: ...
def is_there(path: str, tasks: TasksDirectory | None = None) -> bool | None: ...
def inotify_init() -> int: ...
def inotify_add_watch(descriptor: int, path: bytes, mask: int) -> int: ...
def waiting_bytes(descriptor: int) -> int: ...
def events_in(raw: bytes) -> list[tuple[int, int, bytes, int]]: ...
def peek(path: str, capabilities: bytes, tasks: TasksDirectory) -> tuple[int, bytes] | None: ...

"""The wrapper of inotify(7), against the kernel's."""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest

if sys.platform != "linux":
    pytest.skip("inotify is Linux", allow_module_level=True)

from fastclaim import _transition_py, inotify
from fastclaim._core import posix
from fastclaim.inotify import DescriptorLost, Event, Inotify
from fastclaim.inotify_masks import IN_CREATE, IN_DELETE, IN_IGNORED, IN_MOVED_FROM, IN_MOVED_TO

MASK = IN_CREATE | IN_MOVED_TO | IN_DELETE


@pytest.fixture
def watch() -> Iterator[Inotify]:
    with Inotify() as watch:
        yield watch


def test_nothing_to_read_is_an_empty_list(watch: Inotify, tmp_path: Path) -> None:
    watch.add(os.fsencode(tmp_path), MASK)
    assert watch.read() == []
    assert watch.wait(0) is False


def test_events_come_in_order_with_the_names_that_they_happened_to(
    watch: Inotify, tmp_path: Path
) -> None:
    wd = watch.add(str(tmp_path), MASK)
    (tmp_path / "a").touch()
    (tmp_path / "a").rename(tmp_path / ("ä" * 100))
    (tmp_path / ("ä" * 100)).unlink()
    assert watch.wait(10)
    assert [event._replace(cookie=0) for event in watch.read()] == [
        Event(wd, IN_CREATE, b"a"),
        Event(wd, IN_MOVED_TO, ("ä" * 100).encode()),
        Event(wd, IN_DELETE, ("ä" * 100).encode()),
    ]
    assert watch.read() == []


def test_what_is_cut_off_is_refused(core: ModuleType) -> None:
    raw = struct.pack("iIII", 3, IN_CREATE, 0, 16) + b"name".ljust(16, b"\0")
    assert core.events_in(raw + raw) == [(3, IN_CREATE, b"name", 0)] * 2
    assert core.events_in(b"") == []
    for size_bytes in range(1, len(raw)):
        with pytest.raises(ValueError, match="cut off"):
            core.events_in(raw[:size_bytes])


def test_the_two_halves_of_a_rename_have_one_cookie(watch: Inotify, tmp_path: Path) -> None:
    watch.add(str(tmp_path), IN_MOVED_FROM | IN_MOVED_TO)
    (tmp_path / "a").touch()
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "b").rename(tmp_path / "c")
    assert watch.wait(10)
    first, second, third, fourth = (event.cookie for event in watch.read())
    assert first == second != third == fourth


def test_more_events_than_one_read_brings_all_come(watch: Inotify, tmp_path: Path) -> None:
    watch.add(str(tmp_path), IN_CREATE)
    names = {f"{'x' * 200}{n}".encode() for n in range(200)}
    for name in names:
        open(os.fsencode(tmp_path) + b"/" + name, "x").close()
    seen = set()
    while events := watch.read():
        seen.update(event.name for event in events)
    assert seen == names


def test_a_removed_directory_ends_its_watch_with_a_last_event(
    watch: Inotify, tmp_path: Path
) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    wd = watch.add(str(directory), MASK)
    directory.rmdir()
    assert watch.read()[-1] == Event(wd, IN_IGNORED, b"")


@pytest.fixture
def as_a_wait_begins(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Has something done when a thread is about to block on the kernel."""
    make_poll = select.poll

    def register(happen: Callable[[], object]) -> None:
        class Poll:
            def __init__(self) -> None:
                self._poll = make_poll()
                self.register = self._poll.register

            def poll(self, *timeout_ms: float) -> object:
                happen()
                return self._poll.poll(*timeout_ms)

        monkeypatch.setattr(select, "poll", Poll)

    return register


def test_a_wait_ends_when_something_happens(
    watch: Inotify, tmp_path: Path, as_a_wait_begins: Callable[[Callable[[], object]], None]
) -> None:
    watch.add(str(tmp_path), MASK)
    waits = threading.Event()
    as_a_wait_begins(waits.set)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(watch.wait, 60)
        assert waits.wait(60)
        (tmp_path / "a").touch()
        assert waiting.result() is True


@pytest.mark.parametrize("timeout_s", [60, None, float("inf")])
def test_an_exception_of_a_signal_handler_ends_a_wait(
    watch: Inotify,
    tmp_path: Path,
    as_a_wait_begins: Callable[[Callable[[], object]], None],
    timeout_s: float | None,
) -> None:
    watch.add(str(tmp_path), MASK)

    def interrupt(*_: object) -> NoReturn:
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    # Again and again: one that came just before the call would not end it.
    as_a_wait_begins(lambda: signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01))
    try:
        with pytest.raises(KeyboardInterrupt):
            watch.wait(timeout_s)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_error_names_the_directory(
    core: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(inotify, "core", core)
    with Inotify() as watch, pytest.raises(FileNotFoundError) as caught:
        watch.add(str(tmp_path / "none"), MASK)
    assert caught.value.filename == str(tmp_path / "none")


def test_a_name_with_nul_is_refused(core: ModuleType, watch: Inotify, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="null byte"):
        core.inotify_add_watch(watch.descriptor, os.fsencode(tmp_path) + b"\0", MASK)


@pytest.mark.parametrize(
    ("descriptor", "mask"), [(2**32 + 2, MASK), (2**70, MASK), (2, 2**32 + MASK), (2, -1)]
)
def test_no_number_is_cut_off(core: ModuleType, tmp_path: Path, descriptor: int, mask: int) -> None:
    with pytest.raises(OverflowError):
        core.inotify_add_watch(descriptor, os.fsencode(tmp_path), mask)


def test_a_name_may_be_of_a_subclass(watch: Inotify, tmp_path: Path) -> None:
    class Name(bytes):
        pass

    assert watch.add(Name(os.fsencode(tmp_path)), MASK) > 0


def test_each_core_watches_the_same(core: ModuleType, watch: Inotify, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path)
    assert core.inotify_add_watch(watch.descriptor, name, MASK) == watch.add(tmp_path, MASK)
    (tmp_path / "a").touch()
    assert [event.name for event in watch.read()] == [b"a"]


def test_having_no_instance_left_is_an_os_error(core: ModuleType) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = os.open(os.devnull, os.O_RDONLY)  # the lowest that is free
    os.close(spare)
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))
    try:
        with pytest.raises(OSError, match="open files") as caught:
            core.inotify_init()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.errno == errno.EMFILE


def test_a_system_without_inotify_is_an_os_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posix, "_libc", object())
    monkeypatch.setattr(inotify, "core", _transition_py)
    with pytest.raises(OSError, match="this system has no inotify") as caught:
        Inotify()
    assert caught.value.errno == errno.ENOSYS


def test_the_descriptor_never_blocks(core: ModuleType) -> None:
    descriptor = core.inotify_init()
    try:
        assert not os.get_blocking(descriptor)
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)


def test_the_descriptor_does_not_outlive_an_exec_and_is_closed_once(watch: Inotify) -> None:
    descriptor = watch.fileno()
    assert not os.get_inheritable(descriptor)
    watch.close()
    watch.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_whose_number_was_closed_by_others_neither_reads_nor_closes_what_has_it_now(
    tmp_path: Path,
) -> None:
    lost = Inotify()
    os.close(lost.fileno())
    with Inotify() as other:
        assert other.descriptor not in (
            -1,
            lost.fileno(),
        )  # the kernel gives the lowest that is free
        other.add(str(tmp_path), MASK)
        (tmp_path / "a").touch()
        assert lost.wait()
        with pytest.raises(DescriptorLost):
            lost.read()
        lost.close()
        assert [event.name for event in other.read()] == [b"a"]


def test_the_number_of_a_lost_instance_may_be_another_files(tmp_path: Path) -> None:
    lost = Inotify()
    os.close(lost.fileno())
    with (tmp_path / "log").open("w") as log:
        assert log.fileno() == lost.fileno()
        lost.close()
        assert os.fstat(log.fileno()).st_size == 0


def test_the_number_of_a_lost_instance_may_be_an_event_loops() -> None:
    lost = Inotify()
    os.close(lost.fileno())
    with select.epoll() as poll:
        assert poll.fileno() == lost.fileno()
        lost.close()
        assert poll.poll(0) == []


def test_what_is_written_to_who_has_the_number_of_a_lost_instance_is_not_read() -> None:
    lost = Inotify()
    os.close(lost.fileno())
    reading, writing = os.pipe()
    assert reading == lost.fileno()
    os.write(writing, b"theirs")
    with pytest.raises(DescriptorLost):
        lost.read()
    assert os.read(reading, 9) == b"theirs"
    os.close(reading)
    os.close(writing)

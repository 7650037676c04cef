"""`fastclaim watch` in a real terminal, which is tmux's: what it shows, and what its keys do."""

from __future__ import annotations

import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastclaim import TaskPool

from .agents import agent
from .commands import COMMAND, DEADLINE_S, environment, python_path, refusal


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The directory of a pool in which agent-7 has one task, two wait, and one has failed."""
    pool = TaskPool(tmp_path / "pool")
    pool.publish("broken", max_attempts=1)
    pool.claim("broken", "agent-3").fail("no such branch")
    pool.publish("fix-login", "Fix the login form\nand its tests")
    pool.publish("docs", "Write the docs", blocked_by=["fix-login"])
    pool.claim("fix-login", "agent-7", bind=False)
    return Path(pool.base_dir)


class Terminal:
    """A terminal that `fastclaim watch` runs in."""

    def __init__(self, server: Path, base: Path, before: str = "") -> None:
        if shutil.which("tmux") is None and os.environ.get("FASTCLAIM_REQUIRE_TMUX") != "1":
            pytest.skip("no tmux here")
        self._tmux = ["tmux", "-S", str(server), "-f", "/dev/null"]
        watch = shlex.join([*COMMAND, "watch", "--interval", "0.1", "--pool", str(base)])
        # What comes after the end stays to be read.
        shell = f"{before}{watch}; echo ended with $?; cat"
        subprocess.run(
            [*self._tmux, "new-session", "-d", "-x", "120", "-y", "30", shell],
            env=environment(TERM="xterm-256color"),
            check=True,
        )

    def press(self, *keys: str) -> None:
        subprocess.run([*self._tmux, "send-keys", *keys], check=True)

    def process_id(self) -> int:
        """That of `fastclaim watch`."""
        shell = int(self._said_by_tmux("display-message", "-p", "#{pane_pid}"))
        (watch,) = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
        return int(watch)

    def signal(self, number: int) -> None:
        """Send a signal to `fastclaim watch`."""
        os.kill(self.process_id(), number)

    def modes(self) -> str:
        """Whether the alternate screen is on, and whether the mouse is reported."""
        return self._said_by_tmux("display-message", "-p", "#{alternate_on} #{mouse_any_flag}")

    def text(self) -> str:
        return self._said_by_tmux("capture-pane", "-p")

    def _said_by_tmux(self, *command: str) -> str:
        result = subprocess.run(
            [*self._tmux, *command], check=True, capture_output=True, encoding="utf-8"
        )
        return result.stdout

    def shows(self, *texts: str) -> str:
        """Wait until all of these are to be seen; returns what else is."""
        late_s = time.monotonic() + DEADLINE_S
        while not all(text in (shown := self.text()) for text in texts):
            assert time.monotonic() < late_s, shown
            time.sleep(0.02)
        return shown

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], check=False)


@pytest.fixture
def terminal(base: Path, tmp_path: Path) -> Iterator[Terminal]:
    """`fastclaim watch`, which has shown its first figures."""
    terminal = Terminal(tmp_path / "tmux", base)
    terminal.shows("1 claimed", "agent-7")
    yield terminal
    terminal.close()


def counts(base: Path) -> dict[str, int]:
    return TaskPool(base).counts()


def until(true: Callable[[], bool]) -> None:
    late_s = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < late_s
        time.sleep(0.02)


def test_it_shows_figures_and_who_has_what_and_keeps_up(terminal, base):
    shown = terminal.shows("1 available, 1 claimed", "fix-login", "Fix the login form")
    assert "and its tests" not in shown
    TaskPool(base).publish("late")
    terminal.shows("2 available")
    TaskPool(base).claim("late", "agent-9", bind=False)
    terminal.shows("2 claimed", "agent-9")


def test_it_marks_the_claims_that_have_ended(terminal, base):
    pool = TaskPool(base)
    pool.publish_many([{"task_id": "orphan"}, {"task_id": "over"}])
    pool.claim("over", "agent-8", lease_s=0.1)
    with agent(lambda: pool.claim("orphan", "agent-9")) as holder:
        terminal.shows("3 claimed", "its lease expired")
        holder.kill()
        shown = terminal.shows("its process ended")
    assert re.search(r"orphan +agent-9 .*its process ended", shown)
    assert re.search(r"over +agent-8 .*its lease expired", shown)
    assert shown.count("its process ended") == 1


def test_keys_show_a_task_and_why_it_waits(terminal):
    terminal.press("s")
    terminal.shows('"description": "Fix the login form\\nand its tests"', "close")
    terminal.press("q", "Tab")
    terminal.shows("waiting for", "Write the docs")
    terminal.press("w")
    terminal.shows("waits for fix-login", "close")
    terminal.press("Escape")
    terminal.shows("waiting for")


def test_a_release_is_asked_about_first(terminal, base):
    terminal.press("r")
    terminal.shows("agent-7 has had it for", "Release it?")
    terminal.press("n", "r")
    terminal.shows("Release it?")
    assert counts(base)["claimed"] == 1
    terminal.press("y")
    terminal.shows("released fix-login", "0 claimed")
    assert counts(base)["claimed"] == 0


def test_a_failed_task_is_retried(terminal, base):
    terminal.press("t")
    terminal.shows("only a failed task can be retried")
    terminal.press("Tab", "Tab", "Tab")
    terminal.shows("broken", "no such branch")
    terminal.press("t")
    terminal.shows("broken can be claimed again", "0 failed")
    assert counts(base)["failed"] == 0


def test_a_pool_is_paused_and_resumed(terminal, base):
    terminal.press("p")
    terminal.shows("paused: nothing can be claimed", "until further notice")
    assert TaskPool(base).paused() is not None
    terminal.press("p")
    terminal.shows("agents can claim again")
    until(lambda: TaskPool(base).paused() is None)


def test_a_pool_that_goes_wrong_is_told_and_watched_on(terminal, base):
    (base / "tasks" / "claimed").rename(base / "tasks" / "gone")
    terminal.shows("No such file")
    (base / "tasks" / "gone").rename(base / "tasks" / "claimed")
    TaskPool(base).publish("late")
    terminal.shows("2 available")


def test_it_ends_and_leaves_the_terminal_as_it_was(terminal):
    terminal.press("q")
    assert terminal.shows("ended with 0").strip() == "ended with 0"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_it_with_its_status_and_leaves_the_terminal_as_it_was(terminal, number):
    assert terminal.modes() == "1 1\n"
    terminal.signal(number)
    assert terminal.shows("ended with").strip() == f"ended with {128 + number}"
    assert terminal.modes() == "0 0\n"
    # Lines are read as lines again, and what is typed is to be seen: from the terminal, and `cat`.
    terminal.press("h", "i", "Enter")
    until(lambda: terminal.text().split() == ["ended", "with", f"{128 + number}", "hi", "hi"])


def test_it_ends_when_its_terminal_is_closed(base):
    pid, ours = pty.fork()
    if pid == 0:
        variables = environment(TERM="xterm-256color")
        os.execve(COMMAND[0], [*COMMAND, "watch", "--pool", str(base)], variables)
    shown = b""
    while b"agent-7" not in shown:
        shown += os.read(ours, 4096)
    os.close(ours)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP


def test_what_it_is_to_ignore_it_ignores(base, tmp_path):
    terminal = Terminal(tmp_path / "tmux", base, before="trap '' HUP; ")
    try:
        terminal.shows("1 claimed", "agent-7")
        terminal.signal(signal.SIGHUP)
        TaskPool(base).publish("late")
        terminal.shows("2 available")
        watch = terminal.process_id()
    finally:
        terminal.close()
    until(lambda: not is_alive(watch))


def is_alive(process_id: int) -> bool:
    """Whether there is a process of that id, alive."""
    try:
        return ") Z " not in Path(f"/proc/{process_id}/stat").read_text()
    except FileNotFoundError:
        return False


def test_without_textual_it_says_what_to_install(base, tmp_path):
    (tmp_path / "textual.py").write_text("raise ImportError('not installed')")
    status, line = refusal("watch", "--pool", base, PYTHONPATH=python_path(tmp_path))
    assert status == 2
    assert "fastclaim[cli]" in line

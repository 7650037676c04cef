"""What `fastclaim claim` imports: agents call it between two steps, and most of it is start-up.

Not how long it takes, which depends on the machine. To see that, run
``python -X importtime -m fastclaim claim --agent x``.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from fastclaim import TaskPool, core
from fastclaim.cli import claim, parsers, plain

from .commands import environment

# Each takes longer to import than a claim takes, or nearly so, and a claim can do without.
HEAVY = {
    "argparse",
    "asyncio",
    "concurrent",
    "contextlib",
    "ctypes",
    "dataclasses",
    "datetime",
    "importlib.metadata",
    "inspect",
    "locale",
    "logging",
    "multiprocessing",
    "pathlib",
    "prometheus_client",
    "random",
    "rich",
    "selectors",
    "shutil",
    "signal",
    "socket",
    "subprocess",
    "tempfile",
    "textual",
    "threading",
    "traceback",
    "typing",
}
if core == "python":
    HEAVY -= {"contextlib", "ctypes", "typing"}  # renameat2 has to be called somehow
# Modules of ours that other commands, or seldom ones, are made of.
OTHERS = {
    "completion",
    "demo",
    "doctor",
    "finish",
    "follower",
    "look",
    "lookup",
    "output",
    "parsers",
    "publish",
    "survey",
    "upkeep",
    "work",
}
# ... and of the library.
LIBRARY = {
    f"fastclaim.{name}"
    for name in ("exclusive", "inotify", "pausing", "publishing", "recovery", "retrying")
}


def imported(pool: TaskPool, *arguments: str) -> set[str]:
    """What a claim has imported by its end."""
    code = f"""
import sys
sys.path[:] = {sys.path!r}
from fastclaim.cli import main
status = main({["claim", *arguments, "--agent", "x", "--pool", str(pool.base_dir)]!r})
print(*sys.modules, file=sys.stderr)
sys.exit(status)
"""
    # Without site: a .pth file may import what it likes.
    result = subprocess.run(
        [sys.executable, "-S", "-c", code], env=environment(), capture_output=True, text=True
    )
    assert result.returncode == 0
    assert json.loads(result.stdout)["claimed_by"] == "x"
    return set(result.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "selecting"),
    [(("a",), {"fastclaim.selection", "heapq"}), ((), set())],
    ids=["by its id", "the next"],
)
def test_a_claim_imports_nothing_heavy(tmp_path, arguments, selecting):
    pool = TaskPool(tmp_path / "pool")
    pool.publish("a")
    found = imported(pool, *arguments)
    assert found & (LIBRARY | HEAVY | selecting) == set()
    assert found & {f"fastclaim.cli.{name}" for name in OTHERS} == set()


def test_importing_the_package_imports_nothing_heavy():
    code = f"import sys; sys.path[:] = {sys.path!r}; import fastclaim; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-S", "-c", code], env=environment(), capture_output=True, check=True
    )
    assert set(result.stdout.decode().split()) & (LIBRARY | HEAVY) == set()


def test_a_claim_that_does_not_wait_asks_the_kernel_for_nothing(tmp_path):
    """To end an inotify watch takes the kernel several times as long as the claim."""
    pool = TaskPool(tmp_path / "pool")
    for task_id in "ab":
        pool.publish(task_id)
    pool.publish("c", blocked_by=["d"], priority=1)
    assert "fastclaim.inotify" not in imported(pool)
    assert "fastclaim.inotify" in imported(pool, "--wait", "1")


UNDERSTOOD = [
    ("--agent", "x"),
    ("a", "--agent", "x"),
    ("--agent", "x", "a"),
    ("--json", "a", "--agent", "x", "--pool", "/p"),
    ("--agent", "x", "--capability", "c", "--capability", "d e"),
    ("--agent", "x", "--agent", "y", "--order", "any", "--wait", "10m", "--lease", "1.5"),
    ("", "--agent", " "),
]
UNUSUAL = [
    (),
    ("a",),
    ("a", "b", "--agent", "x"),
    ("--agent",),
    ("--agent", "-x"),
    ("--agent", ""),
    ("--agent=x",),
    ("--agent", "x", "--", "a"),
    ("--agent", "x", "--wait", "soon"),
    ("--agent", "x", "--lease", "inf"),
    ("--agent", "x", "--order", "none"),
    ("--agent", "x", "--debug"),
    ("--agent", "x", "--colour"),
    ("--agent", "x", "-h"),
]


@pytest.mark.parametrize("words", UNDERSTOOD, ids=" ".join)
def test_without_argparse_a_claim_is_understood_as_with_it(words, monkeypatch):
    monkeypatch.delenv("FASTCLAIM_AGENT", raising=False)
    ours = vars(plain.parse(claim.add_claim_arguments, words))
    theirs = vars(parsers.command_parser("claim").parse_args(words))
    assert ours == {name: theirs[name] for name in ours}
    assert theirs.keys() - ours.keys() == {"command", "debug", "run"}


@pytest.mark.parametrize("words", UNUSUAL, ids=" ".join)
def test_what_is_unusual_is_left_to_argparse(words, monkeypatch):
    monkeypatch.delenv("FASTCLAIM_AGENT", raising=False)
    assert plain.parse(claim.add_claim_arguments, words) is None


def test_the_agent_may_come_from_the_environment_without_argparse(monkeypatch):
    monkeypatch.setenv("FASTCLAIM_AGENT", "x")
    assert plain.parse(claim.add_claim_arguments, ()).agent == "x"

"""What agents' commands import: they are called between two steps, and most of one is start-up.

Not how long it takes, which depends on the machine. To see that, run
``python -X importtime -m fastclaim claim --agent x``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import pytest

from fastclaim import TaskPool, core
from fastclaim.cli import commands, exits, parsers, plain

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
    for name in ("bell", "exclusive", "inotify", "pausing", "publishing", "recovery", "retrying")
}


def imported_by(pool: TaskPool, *arguments: str, status: int = exits.OK) -> set[str]:
    """What a command that ends with this status has imported by its end."""
    code = f"""
import sys
sys.path[:] = {sys.path!r}
from fastclaim.cli import main
status = main({[*arguments, "--agent", "x", "--pool", str(pool.base_dir)]!r})
print(*sys.modules, file=sys.stderr)
sys.exit(status)
"""
    # Without site: a .pth file may import what it likes.
    result = subprocess.run(
        [sys.executable, "-S", "-c", code], env=environment(), capture_output=True, text=True
    )
    assert result.returncode == status
    if status == exits.OK:
        assert json.loads(result.stdout)["task_id"]
    return set(result.stderr.split())


def imported(pool: TaskPool, *arguments: str) -> set[str]:
    """What a claim has imported by its end."""
    return imported_by(pool, "claim", *arguments)


@pytest.mark.parametrize(
    ("arguments", "others"),
    [(("a",), {"fastclaim.selection", "heapq"}), ((), {"weakref"})],
    ids=["by its id", "the next"],
)
def test_a_claim_imports_nothing_heavy(tmp_path, arguments, others):
    pool = TaskPool(tmp_path / "pool")
    pool.publish("a")
    found = imported(pool, *arguments)
    assert found & (LIBRARY | HEAVY | others) == set()
    assert found & {f"fastclaim.cli.{name}" for name in OTHERS} == set()


def test_a_shell_claim_of_a_task_that_somebody_has_imports_nothing_heavy(tmp_path):
    pool = TaskPool(tmp_path / "pool")
    pool.publish("a")
    pool.claim("a", "y")
    assert imported_by(pool, "claim", "a", status=exits.NOT_DONE) & HEAVY == set()


@pytest.mark.parametrize(
    ("name", "options"),
    [("complete", ("--result", '{"a": 1}')), ("release", ()), ("fail", ("--error", "e"))],
)
def test_the_end_of_a_claim_imports_nothing_heavy(tmp_path, name, options):
    pool = TaskPool(tmp_path / "pool")
    pool.publish("a")
    pool.claim("a", "x", bind=False)
    assert imported_by(pool, name, "a", *options) & HEAVY == set()


def test_a_process_that_loses_races_imports_nothing_heavy(tmp_path):
    """Its first miss looks for the claim's owner, its second starts to listen to the kernel."""
    pool = TaskPool(tmp_path / "pool")
    for task_id in "abcd":
        pool.publish(task_id)
    for task_id in "abc":
        pool.claim(task_id, "y")
    code = f"""
import sys
sys.path[:] = {sys.path!r}
from fastclaim import TaskPool
pool = TaskPool({str(tmp_path / "pool")!r})
print(*(bool(pool.claim_task(task_id, "x")) for task_id in "abcd"), *sys.modules)
"""
    result = subprocess.run(
        [sys.executable, "-S", "-c", code], env=environment(), capture_output=True, text=True
    )
    *claimed, found = result.stdout.split(maxsplit=4)
    assert claimed == ["False", "False", "False", "True"]
    assert "fastclaim.recovery" in found.split()
    assert set(found.split()) & HEAVY == set()


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
    ("claim", "--agent", "x"),
    ("claim", "a", "--agent", "x"),
    ("claim", "--agent", "x", "a"),
    ("claim", "--json", "a", "--agent", "x", "--pool", "/p"),
    ("claim", "--agent", "x", "--capability", "c", "--capability", "d e"),
    ("claim", "--agent", "x", "--agent", "y", "--order", "any", "--wait", "10m", "--lease", "1.5"),
    ("claim", "", "--agent", " "),
    ("complete", "a", "--agent", "x"),
    ("complete", "--token", "t", "a", "--result", '{"b": [1]}', "--agent", "x", "--json"),
    ("release", "a", "--agent", "x", "--after", "2m"),
    ("fail", "a", "--agent", "x"),
    ("fail", "a", "--agent", "x", "--error", "no such thing", "--retry-after", "1.5"),
    ("renew", "a", "--agent", "x", "--lease", "1h"),
]
UNUSUAL = [
    ("claim",),
    ("claim", "a"),
    ("claim", "a", "b", "--agent", "x"),
    ("claim", "--agent"),
    ("claim", "--agent", "-x"),
    ("claim", "--agent", ""),
    ("claim", "--agent=x"),
    ("claim", "--agent", "x", "--", "a"),
    ("claim", "--agent", "x", "--wait", "soon"),
    ("claim", "--agent", "x", "--lease", "inf"),
    ("claim", "--agent", "x", "--order", "none"),
    ("claim", "--agent", "x", "--debug"),
    ("claim", "--agent", "x", "--colour"),
    ("claim", "--agent", "x", "-h"),
    ("complete", "--agent", "x"),
    ("complete", "a", "--agent", "x", "--result", "-"),
    ("complete", "a", "--agent", "x", "--result", "-1"),
    ("release", "a", "--agent", "x", "--after", "soon"),
    ("renew", "a", "--agent", "x"),
]


def without_argparse(name: str, *words: str) -> argparse.Namespace | None:
    declare = getattr(commands.module_of(name), f"add_{name}_arguments")
    return plain.parse(declare, words)


@pytest.mark.parametrize("words", UNDERSTOOD, ids=" ".join)
def test_without_argparse_an_agents_command_is_understood_as_with_it(words, monkeypatch):
    monkeypatch.delenv("FASTCLAIM_AGENT", raising=False)
    name, *rest = words
    ours = vars(without_argparse(*words))
    theirs = vars(parsers.command_parser(name).parse_args(rest))
    assert ours == {each: theirs[each] for each in ours}
    assert theirs.keys() - ours.keys() == {"command", "debug", "run"}


@pytest.mark.parametrize("words", UNUSUAL, ids=" ".join)
def test_what_is_unusual_is_left_to_argparse(words, monkeypatch):
    monkeypatch.delenv("FASTCLAIM_AGENT", raising=False)
    assert without_argparse(*words) is None


def test_the_agent_may_come_from_the_environment_without_argparse(monkeypatch):
    monkeypatch.setenv("FASTCLAIM_AGENT", "x")
    assert without_argparse("claim").agent == "x"

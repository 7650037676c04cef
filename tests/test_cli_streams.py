"""What becomes of a command whose standard streams are closed, full or gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastclaim import TaskPool

from .commands import COMMAND, DEADLINE_S, environment, fastclaim

GONE = {"stdin": "<&-", "stdout": ">&-", "stderr": "2>&-", "all": "<&- >&- 2>&-"}
# What a command is to do with a pool in which "a" waits, "b" is x's, and "c" has failed.
COMMANDS = {
    "publish": ["publish", "--id", "d"],
    "publish -": ["publish", "-"],
    "claim": ["claim", "--agent", "x"],
    "claim TASK": ["claim", "a", "--agent", "x"],
    "complete": ["complete", "b", "--agent", "x"],
    "complete -": ["complete", "b", "--agent", "x", "--result", "-"],
    "release": ["release", "b", "--agent", "x"],
    "fail": ["fail", "b", "--agent", "x"],
    "renew": ["renew", "b", "--agent", "x", "--lease", "1h"],
    "work": ["work", "--agent", "x", "--once", "--", "cat"],
    "show": ["show", "a"],
    "list": ["list"],
    "mine": ["mine", "--agent", "x"],
    "why": ["why", "a"],
    "pause": ["pause"],
    "resume": ["resume"],
    "status": ["status"],
    "watch": ["watch"],
    "events": ["events"],
    "recover": ["recover"],
    "retry": ["retry", "c"],
    "prune": ["prune", "completed", "--older-than", "0"],
    "doctor": ["doctor"],
    "completion": ["completion", "bash"],
    "no such task": ["show", "nothing"],
    "usage": ["show"],
    "help": ["show", "--help"],
    "version": ["--version"],
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The directory of a pool with a task in each state but completed."""
    pool = TaskPool(tmp_path / "pool", max_attempts=1)
    for task_id in "abc":
        pool.publish(task_id)
    pool.claim("c", "x").fail("no disk")
    fastclaim("claim", "b", "--agent", "x", "--pool", pool.base_dir)
    return Path(pool.base_dir)


def in_a_shell(base: Path, arguments: list[str], then: str) -> subprocess.CompletedProcess[str]:
    """Run the command, its streams redirected as a shell does it."""
    return subprocess.run(
        ["bash", "-c", f'exec "$@" {then}', "bash", *COMMAND, *arguments],
        env=environment(A2A_BASE_DIR=os.fspath(base)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )


def waiting(base: Path) -> set[str]:
    return {task["task_id"] for task in TaskPool(base).tasks()}


@pytest.mark.parametrize("gone", GONE)
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_breaks_on_a_closed_stream(base, command, gone):
    result = in_a_shell(base, COMMANDS[command], GONE[gone])
    assert result.returncode in range(8)
    assert "bug" not in result.stderr
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr
    assert len(result.stderr.splitlines()) <= 1


CLAIMS = (["claim", "--agent", "x"], ["claim", "a", "--agent", "x", "--lease", "1h"])


@pytest.mark.parametrize("claim", CLAIMS, ids=["the next", "by its id"])
@pytest.mark.parametrize(("to", "status"), [(">&-", 7), (">/dev/full", 7)], ids=["closed", "full"])
def test_a_claim_that_nobody_can_be_told_of_is_given_back(base, claim, to, status):
    result = in_a_shell(base, claim, to)
    assert result.returncode == status
    assert len(result.stderr.splitlines()) == 1
    assert waiting(base) == {"a"}
    (task,) = TaskPool(base).tasks()
    assert "attempts" not in task


def test_a_claim_whose_reader_has_gone_is_given_back(base):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as pipe:
        result = subprocess.run(
            [*COMMAND, "claim", "--agent", "x", "--pool", base],
            env=environment(),
            stdout=pipe,
            stderr=subprocess.PIPE,
            timeout=DEADLINE_S,
        )
    assert (result.returncode, result.stderr) == (141, b"")
    assert waiting(base) == {"a"}


def test_what_nobody_has_heard_of_is_given_back_by_its_token_alone(base):
    """The claim of somebody who was given the task meanwhile stays."""
    code = """
import sys
sys.path[:] = PATH
from fastclaim import TaskPool
from fastclaim.cli import answer, main

def line(task):
    pool = TaskPool(sys.argv[-1])
    pool.release("a", "x")
    print(pool.claim("a", "x", bind=False).token, file=sys.stderr)
    raise BrokenPipeError

answer.line = line
sys.exit(main())
"""
    arguments = ["claim", "a", "--agent", "x", "--pool", os.fspath(base)]
    result = subprocess.run(
        [sys.executable, "-c", f"PATH = {sys.path!r}\n{code}", *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert result.returncode == 141
    (claim,) = (claim for claim in TaskPool(base).mine("x") if claim.task_id == "a")
    assert claim.token == result.stderr.strip()


def test_standard_input_that_is_closed_is_named(base):
    for command in ("publish -", "complete -"):
        name = COMMANDS[command][0]
        result = in_a_shell(base, COMMANDS[command], "<&-")
        assert result.returncode == 7
        assert result.stderr == f"fastclaim {name}: standard input: Bad file descriptor\n"


def test_a_result_that_is_not_utf_8_is_taken(base):
    result = subprocess.run(
        [*COMMAND, "complete", "b", "--agent", "x", "--result", "-", "--pool", base],
        env=environment(),
        input=b"caf\xe9",
        capture_output=True,
        timeout=DEADLINE_S,
    )
    assert (result.returncode, result.stderr) == (0, b"")
    (task,) = TaskPool(base).tasks("completed")
    assert task["result"] == "caf\ufffd"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("asked", [["--version"], ["--help"], ["claim", "--help"]], ids=" ".join)
def test_help_or_a_version_that_cannot_be_written_is_told(base, monkeypatch, asked, unbuffered):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    result = in_a_shell(base, asked, ">/dev/full")
    said = "fastclaim: standard output: No space left on device\n"
    assert (result.returncode, result.stderr) == (7, said)


DONE = {
    "complete": "completed 'b'",
    "release": "released 'b'",
    "publish": "published 'd'",
    "pause": "paused until further notice",
    "retry": "1 task can be claimed again",
    "recover": "what the dead have left is put right",
}


@pytest.mark.parametrize("command", DONE)
def test_an_answer_that_cannot_be_written_says_what_was_done_all_the_same(base, command):
    result = in_a_shell(base, COMMANDS[command], ">/dev/full")
    said = f"standard output: No space left on device; done all the same: {DONE[command]}"
    assert (result.returncode, result.stderr) == (7, f"fastclaim {command}: {said}\n")


def test_what_only_looks_says_that_the_output_is_full_and_no_more(base):
    result = in_a_shell(base, ["recover", "--dry-run"], ">/dev/full")
    said = "fastclaim recover: standard output: No space left on device\n"
    assert (result.returncode, result.stderr) == (7, said)

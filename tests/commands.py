"""Runs the command `fastclaim` as a process, with its output in a pipe or on a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "fastclaim"]
DEADLINE_S = 60
# What would make a difference, and must not.
_FOREIGN = ("FASTCLAIM_AGENT", "FASTCLAIM_TASK_ID", "A2A_BASE_DIR", "NO_COLOR", "FORCE_COLOR")


def environment(**variables: str) -> dict[str, str]:
    """What the command gets."""
    own = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    return own | {"COLUMNS": "200", "LC_ALL": "C.UTF-8"} | variables


def python_path(directory: Path) -> str:
    """A $PYTHONPATH on which a directory's modules come before all others."""
    return os.pathsep.join([str(directory), *filter(None, sys.path)])


def fastclaim(
    *arguments: object, input: str | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        env=environment(**variables),
        input=input,
        capture_output=True,
        encoding="utf-8",
        timeout=DEADLINE_S,
    )


def answers(*arguments: object, input: str | None = None, **variables: str) -> list[Any]:
    """Run the command, which must succeed without a word on stderr; the JSON lines it prints."""
    result = fastclaim(*arguments, input=input, **variables)
    assert (result.returncode, result.stderr) == (0, "")
    return [json.loads(line) for line in result.stdout.splitlines()]


def answer(*arguments: object, input: str | None = None, **variables: str) -> Any:
    """Run the command, which must succeed and print one JSON line."""
    (value,) = answers(*arguments, input=input, **variables)
    return value


def refusal(*arguments: object, input: str | None = None, **variables: str) -> tuple[int, str]:
    """Run the command, which must fail with one line on stderr: its status, and that line."""
    result = fastclaim(*arguments, input=input, **variables)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"fastclaim {arguments[0]}: ")
    return result.returncode, line.removeprefix(f"fastclaim {arguments[0]}: ")


def on_a_terminal(*arguments: object, **variables: str) -> tuple[int, str]:
    """Run the command to its end on a terminal of its own: its status, and what it shows, without
    colours.
    """
    return on_a_terminal_of([*COMMAND, *map(str, arguments)], **variables)


def on_a_terminal_of(command: Sequence[str], **variables: str) -> tuple[int, str]:
    """The same for any command."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command,
        env=environment(**{"TERM": "xterm-256color"} | variables),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # EIO: nobody has it open any more
                break
        os.close(ours)
        status = process.wait(DEADLINE_S)
    text = shown.decode("utf-8", "replace").replace("\r\n", "\n")
    return status, re.sub(r"\x1b\[[0-9;]*m", "", text)

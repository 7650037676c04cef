"""The README's session, run on a terminal. ``python -m tests.session`` rewrites it."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from .commands import on_a_terminal_of

README = Path(__file__).parent.parent / "README.md"
_SESSION = re.compile(
    r"(?<=<!-- session -->\n```console\n).*?(?=```\n<!-- /session -->)", re.DOTALL
)
_POOL = "/tmp/team"  # one that no sample before it in the README has filled


def written() -> str:
    """The session that stands in the README."""
    found = _SESSION.search(README.read_text(encoding="utf-8"))
    assert found is not None
    return found.group()


def samples() -> list[str]:
    """The README's samples in Python, in their order."""
    return re.findall(
        r"^```python\n(.*?)^```$", README.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )


def replayed() -> str:
    """The same commands, and what comes of them now."""
    directory = tempfile.mkdtemp(dir="/tmp")
    try:
        commands = re.findall(r"^\$ (.*)$", written(), re.MULTILINE)
        return "".join(_run(command, directory) for command in commands)
    finally:
        shutil.rmtree(directory)


def _run(command: str, directory: str) -> str:
    # A function: the command's own name, whatever is first in $PATH.
    function = f'fastclaim() {{ "{sys.executable}" -m fastclaim "$@"; }}'
    pool = os.path.join(directory, "agents")
    _, shown = on_a_terminal_of(
        ["bash", "-c", f"{function}\n{command}"], A2A_BASE_DIR=pool, COLUMNS="110"
    )
    lines = [line.rstrip() for line in shown.replace(pool, _POOL).splitlines()]
    return "\n".join([f"$ {command}", *lines]) + "\n"


def comparable(session: str) -> str:
    """The session without what is another each time: times, tokens, the width of paths."""
    text = re.sub(r"\b[0-9a-f]{12}-[0-9a-f]+\b", "TOKEN", session)
    return re.sub(r" {2,}", "  ", re.sub(r"\d+", "0", text))


def main() -> None:
    """Write what comes of the commands now into the README."""
    argparse.ArgumentParser(
        prog="python -m tests.session",
        description="Run the README's session anew, and write what comes of it into the README.",
    ).parse_args()
    now = replayed()
    README.write_text(_SESSION.sub(lambda _: now, README.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()

"""What `fastclaim claim` imports: agents call it between two steps, and most of it is start-up.

Not how long it takes, which depends on the machine. To see that, run
``python -X importtime -m fastclaim claim --agent x``.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from fastclaim import TaskPool

from .commands import environment

# Each takes longer to import than a claim takes, and a claim can do without.
HEAVY = {
    "asyncio",
    "concurrent",
    "dataclasses",
    "importlib.metadata",
    "inspect",
    "locale",
    "logging.config",
    "multiprocessing",
    "prometheus_client",
    "rich",
    "selectors",
    "shutil",
    "signal",
    "socket",
    "subprocess",
    "tempfile",
    "textual",
}
OTHERS = {
    "completion",
    "demo",
    "doctor",
    "finish",
    "follower",
    "look",
    "lookup",
    "output",
    "publish",
    "survey",
    "upkeep",
    "work",
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
    [(("a",), {"random", "ctypes", "heapq"}), ((), set())],
    ids=["by its id", "the next"],
)
def test_a_claim_imports_nothing_heavy(tmp_path, arguments, selecting):
    pool = TaskPool(tmp_path / "pool")
    pool.publish("a")
    found = imported(pool, *arguments)
    assert found & (HEAVY | selecting) == set()
    assert found & {f"fastclaim.cli.{name}" for name in OTHERS} == set()

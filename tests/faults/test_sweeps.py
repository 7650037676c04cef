"""A temporary file that a sweeper takes for a dead process's, between its birth and its flock."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fastclaim import outcome

from ..conftest import _transition_c
from .sweep import preloading

# The sweeper has it flocked at that moment, which is all that the core can tell.
EAGAIN_ONCE = """
import ctypes, errno, os, sys
from pathlib import Path
from fastclaim import TaskPool, transition

pool = TaskPool(Path(sys.argv[2]), _core=transition.named(sys.argv[1]))
shim = ctypes.CDLL(None)
pool.publish("x")
pool.claim("x", "a")
path = pool.claimed_dir / "x_a.json"
_, held = pool._directories.core.hold(pool._directories.current(), os.fsencode(path), None)
before = path.read_bytes()
shim.fault_only(b"flock")
shim.fault_arm(ctypes.c_long(0), errno.EAGAIN, 1)
temporary = pool._directories.temporary_file(pool._directories.claimed)
held.prepare(temporary, b"{}", 1, 0)
shim.fault_disarm()
assert not os.path.exists(temporary)
target = os.fsencode(pool.completed_dir / "x_complete.json")
came_to = held.finish(target, (pool._directories.claimed,) * 2, 0, True)
held.close()
assert path.read_bytes() == before
print(came_to)
"""


@pytest.mark.parametrize(
    "core",
    [
        pytest.param(
            "c",
            marks=pytest.mark.skipif(_transition_c is None, reason="the extension was not built"),
        ),
        "python",
    ],
)
def test_a_temporary_file_that_somebody_sweeps_replaces_nothing(
    core: str, shim: Path, tmp_path: Path
) -> None:
    said = subprocess.run(
        [sys.executable, "-c", EAGAIN_ONCE, core, str(tmp_path / "fault-pool")],
        env=preloading(shim),
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert int(said) == outcome.BUSY

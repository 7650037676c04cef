"""interpose.c, for the tests that make system calls fail and processes die."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


Tell = Callable[[str, Mapping[str, int]], None]


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    """Says in the log what was tried, and of each verb how many points."""

    def tell(what: str, points: Mapping[str, int]) -> None:
        each = "; ".join(f"{verb} {count}" for verb, count in points.items())
        with capsys.disabled():
            sys.stdout.write(f"\n{what}: {sum(points.values())} points\n    {each}\n")

    return tell


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """interpose.c, compiled."""
    compiler = os.environ.get("CC", "cc")
    if shutil.which(compiler) is None:
        reason = f"there is no C compiler {compiler!r} for interpose.c"
        if os.environ.get("FASTCLAIM_REQUIRE_EXTENSIONS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    library = tmp_path_factory.mktemp("shim") / "interpose.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", library, HERE / "interpose.c", "-ldl"],
        check=True,
        capture_output=True,
    )
    return library

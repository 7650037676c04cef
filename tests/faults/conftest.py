"""interpose.c, for the tests that make system calls fail and processes die."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


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

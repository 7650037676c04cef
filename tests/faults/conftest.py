"""interpose.c, and what the drivers that run under it have found."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path

import pytest

from ..conftest import _transition_c
from .sweep import DURABILITIES, HERE, Sweep, Sweeps, running, sweep_of

# Whose results are whose promises.
DRIVERS = {HERE / "test_deaths.py": "deaths.py", HERE / "test_faults.py": "driver.py"}
COMPILER = os.environ.get("CC", "cc")
CORES = [
    pytest.param(
        "c",
        marks=pytest.mark.skipif(_transition_c is None, reason="the extension was not built"),
    ),
    pytest.param("py", id="python"),
]
_drivers = pytest.StashKey["Drivers"]()

Tell = Callable[[str, Mapping[str, int]], None]


class Drivers:
    """The drivers that there are tests of; they end with the session."""

    def __init__(self, wanted: Iterable[str], stack: contextlib.ExitStack) -> None:
        self._wanted, self._stack = sorted(wanted), stack
        self._sweeps: dict[str, Sweeps] = {}

    def start(self) -> None:
        """Start them all, side by side."""
        shim = compiled(Path(self._stack.enter_context(tempfile.TemporaryDirectory())))
        for driver in self._wanted:
            self._sweeps[driver] = self._stack.enter_context(running(driver, shim))

    def sweeps_of(self, driver: str) -> Sweeps:
        """What one of them does; they are started if they were not."""
        if not self._sweeps:
            self.start()
        return self._sweeps[driver]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The drivers take minutes: the tests that need no result of theirs come first.

    Of several processes one has all the others, from its first test on: it does nothing but wait.
    """
    items.sort(key=lambda item: (item.path in DRIVERS) != _is_one_of_several(config))
    for item in items:
        if item.path in DRIVERS:
            item.add_marker(pytest.mark.xdist_group("drivers"))


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Start the drivers that there are tests of, and end them at last."""
    wanted = {DRIVERS[item.path] for item in session.items if item.path in DRIVERS}
    if not (sys.platform.startswith("linux") and shutil.which(COMPILER)):
        wanted = set()
    with contextlib.ExitStack() as stack:
        session.config.stash[_drivers] = drivers = Drivers(wanted, stack)
        if wanted and not (_is_one_of_several(session.config) or session.config.option.collectonly):
            drivers.start()
        return (yield)


def _is_one_of_several(config: pytest.Config) -> bool:
    """Whether pytest-xdist gives this process the tests that it runs, one by one."""
    return hasattr(config, "workerinput")


def compiled(directory: Path) -> Path:
    """interpose.c, compiled."""
    library = directory / "interpose.so"
    subprocess.run(
        [COMPILER, "-shared", "-fPIC", "-O1", "-o", library, HERE / "interpose.c", "-ldl"],
        check=True,
        capture_output=True,
    )
    return library


@pytest.fixture(scope="session")
def compiler() -> None:
    """What the shim needs."""
    if shutil.which(COMPILER) is None:
        reason = f"there is no C compiler {COMPILER!r} for interpose.c"
        if os.environ.get("FASTCLAIM_REQUIRE_EXTENSIONS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def shim(compiler: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """interpose.c, compiled."""
    return compiled(tmp_path_factory.mktemp("shim"))


@pytest.fixture(params=DURABILITIES)
def durability(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def sweeps(request: pytest.FixtureRequest, compiler: None) -> Sweeps:
    """What the test module's driver does."""
    return request.config.stash[_drivers].sweeps_of(DRIVERS[request.path])


@pytest.fixture(params=CORES)
def sweep(request: pytest.FixtureRequest, durability: str, sweeps: Sweeps) -> Sweep:
    """All points of one core and durability."""
    return sweep_of(sweeps, request.param, durability)


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    """Says in the log what was tried, and of each verb how many points."""

    def tell(what: str, points: Mapping[str, int]) -> None:
        each = "; ".join(f"{verb} {count}" for verb, count in points.items())
        with capsys.disabled():
            sys.stdout.write(f"\n{what}: {sum(points.values())} points\n    {each}\n")

    return tell

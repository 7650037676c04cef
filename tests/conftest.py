"""Every test that takes `core` or `pool` runs on both cores."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from fastclaim import TaskPool, _transition_py

try:
    from fastclaim import _transition_c
except ImportError:
    # CI sets FASTCLAIM_REQUIRE_EXTENSIONS, and a run of the fallback alone fails in it.
    if os.environ.get("FASTCLAIM_REQUIRE_EXTENSIONS") == "1":
        raise
    _transition_c = None

CORES = [
    pytest.param(
        _transition_c,
        id="c",
        marks=pytest.mark.skipif(_transition_c is None, reason="the extension was not built"),
    ),
    pytest.param(_transition_py, id="python"),
]


MEMORY = "/dev/shm"
ROOM_BYTES = 2**31


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Let tests have their files in memory, unless --basetemp says where; it takes half the time.

    What only a disk can show is asked of images of disks.
    """
    if config.option.basetemp is None and _has_room():
        config.option.basetemp = tempfile.mkdtemp(prefix="pytest-", dir=MEMORY)
        config.add_cleanup(lambda: shutil.rmtree(config.option.basetemp, ignore_errors=True))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """pytest-xdist sends reports as UTF-8, and tests log names that cannot be written so."""
    report = yield
    report.sections = [
        (title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections
    ]
    return report


def _has_room() -> bool:
    if not os.access(MEMORY, os.W_OK):
        return False
    status = os.statvfs(MEMORY)
    return status.f_bavail * status.f_frsize >= ROOM_BYTES and not status.f_flag & os.ST_NOEXEC


@pytest.fixture(params=CORES)
def core(request: pytest.FixtureRequest) -> ModuleType:
    """The compiled core, then the Python core."""
    return request.param


@pytest.fixture
def make_pool(core: ModuleType, tmp_path: Path) -> Callable[..., TaskPool]:
    """Makes pools on one directory, with whatever settings; on both cores."""

    def make(base_dir: Path = tmp_path / "pool", **settings: object) -> TaskPool:
        return TaskPool(base_dir, _core=core, **settings)

    return make


@pytest.fixture
def pausing(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set as soon as a thread pauses, because others hold what it waits for."""
    pausing = threading.Event()
    sleep = time.sleep

    def tell_and_sleep(pause_s: float) -> None:
        pausing.set()
        sleep(pause_s)

    monkeypatch.setattr(time, "sleep", tell_and_sleep)
    return pausing


@pytest.fixture
def pool(make_pool: Callable[..., TaskPool]) -> TaskPool:
    """A pool with the default settings; on both cores."""
    return make_pool()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Where a file system of 64 KiB is mounted."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", place]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("nothing may be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def fill(place: Path) -> None:
    """Leave no room on the file system that is mounted there."""
    content = bytes(1 << 20)
    with open(place / "filler", "wb", buffering=0) as file:
        assert (file.write(content) or 0) < len(content)


# PostgreSQL ---------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres_server_url() -> Iterator[str]:
    """A server for all tests, started when the first asks for it."""
    given = os.environ.get("FASTCLAIM_TEST_POSTGRES")
    if given:
        yield given
        return
    pytest.importorskip("psycopg")
    from . import postgres_server

    problem = postgres_server.unusable()
    if problem is not None:
        pytest.skip(problem)
    with postgres_server.running() as server:
        yield server.url


@pytest.fixture(scope="session")
def _tested_url(postgres_server_url: str) -> Iterator[str]:
    """A schema of this run's own."""
    import psycopg

    schema = f"fastclaim_test_{os.urandom(6).hex()}"
    mark = "&" if "?" in postgres_server_url else "?"
    yield f"{postgres_server_url}{mark}schema={schema}"
    with psycopg.connect(postgres_server_url, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")


@pytest.fixture
def postgres_url(_tested_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where there is an empty pool."""
    from fastclaim.postgres import recovery
    from fastclaim.postgres.database import Database

    # A server that has just been started is no server that was restarted.
    monkeypatch.setattr(recovery, "RECONNECT_GRACE_S", 0.0)

    database = Database(_tested_url)
    database.make()
    for table in ("tasks", "exclusive_keys", "lanes", "agents", "messages"):
        database.query(f"DELETE FROM {{schema}}.{table} RETURNING true", {})
    database.query("UPDATE {schema}.pool SET paused_until = NULL RETURNING true", {})
    return _tested_url

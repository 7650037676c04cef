"""One suite for all kinds of pool: directories, by both cores, and PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fastclaim import TaskPool

from ..conftest import CORES

MakePool = Callable[..., TaskPool]


@pytest.fixture(params=[*CORES, pytest.param("postgres", id="postgres")])
def kind(request: pytest.FixtureRequest) -> object:
    """A core, or "postgres"."""
    return request.param


@pytest.fixture
def make_pool(kind: object, request: pytest.FixtureRequest, tmp_path: Path) -> MakePool:
    """Makes pools in one place, with whatever settings."""
    if kind != "postgres":
        return lambda **settings: TaskPool(tmp_path / "pool", _core=kind, **settings)
    url = request.getfixturevalue("postgres_url")
    from fastclaim.postgres.pool import PostgresPool

    return lambda **settings: PostgresPool(url, **settings)


@pytest.fixture
def pool(make_pool: MakePool) -> TaskPool:
    """A pool with the default settings."""
    return make_pool()


@pytest.fixture
def place(kind: object, pool: TaskPool, request: pytest.FixtureRequest) -> str:
    """What ``A2A_BASE_DIR`` has to be for this pool."""
    return (
        os.fspath(pool.base_dir) if kind != "postgres" else request.getfixturevalue("postgres_url")
    )

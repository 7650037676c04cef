"""One suite for all kinds of pool: directories, by both cores, and PostgreSQL.

``@pytest.mark.needs("claim_next", "claim.lease_s", "Claim.fail", "TaskPool.max_attempts")`` names
what a promise is about: a verb, a verb's parameter, a method of claims, a setting.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fastclaim import Claim, TaskPool

from ..conftest import CORES

MakePool = Callable[..., TaskPool]


def _lacks(name: str, is_directory: bool) -> bool:
    """Whether this kind of pool does not have that yet."""
    owner, _, part = name.partition(".")
    if owner == "Claim":
        return not hasattr(Claim, part)
    if not is_directory:
        return False
    if owner == "TaskPool":
        return part not in inspect.signature(TaskPool).parameters
    verb = getattr(TaskPool, owner, None)
    return verb is None or bool(part and part not in inspect.signature(verb).parameters)


@pytest.fixture(params=[*CORES, pytest.param("postgres", id="postgres")])
def kind(request: pytest.FixtureRequest) -> object:
    """A core, or "postgres"."""
    for marker in request.node.iter_markers("needs"):
        for name in marker.args:
            if _lacks(name, request.param != "postgres"):
                pytest.skip(f"this pool has no {name} yet")
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

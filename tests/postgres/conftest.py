"""Pools on servers that tests may kill, and connections that they may break."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

psycopg = pytest.importorskip("psycopg")

from fastclaim.postgres import server as server_module  # noqa: E402
from fastclaim.postgres.pool import PostgresPool  # noqa: E402

from .. import postgres_server  # noqa: E402


@pytest.fixture
def own_server() -> Iterator[postgres_server.Server]:
    """A server that this test may kill."""
    problem = postgres_server.unusable()
    if problem is not None:
        pytest.skip(problem)
    with postgres_server.running() as server:
        yield server
        server_module.close_all()


@pytest.fixture
def pool(postgres_url: str) -> PostgresPool:
    """An empty pool."""
    return PostgresPool(postgres_url)


@pytest.fixture
def outsider(postgres_server_url: str) -> Iterator[psycopg.Connection]:
    """Somebody else's connection."""
    with psycopg.connect(postgres_server_url, autocommit=True) as connection:
        yield connection

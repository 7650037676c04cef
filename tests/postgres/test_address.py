"""A URL says where a pool is; what of it is secret is never shown."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys

import psycopg
import pytest

from fastclaim import TaskPool, TaskPoolError, a2a, errors, layout
from fastclaim.postgres.address import parse
from fastclaim.postgres.pool import PostgresPool
from fastclaim.postgres.server import close_all

from .. import postgres_server


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:SECRET@h:1/d", "postgresql://u@h:1/d"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("postgresql:///d?host=/tmp&password=SECRET", "postgresql:///d"),
        ("postgresql://u:SECRET@h1:1,h2:2/d?schema=s", "postgresql://u@h1:1,h2:2/d?schema=s"),
        ("postgresql://u:SEC?RET@h/d", "postgresql://..."),
        ("postgres://u:S%40ECRET@h/d?schema=fastclaim", "postgres://u@h/d"),
    ],
)
def test_what_is_shown_of_a_url_has_no_secret(url: str, shown: str) -> None:
    assert layout.shown(url) == shown
    if "..." not in shown:
        address = parse(url)
        assert address.shown == shown
        assert "ECRET" not in repr(address)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:SEC/RET@h:1/d",
        "postgresql://u:SEC@RET@h:1/d",
        "postgresql://u:SEC?RET@h:1/d",
        "postgresql://u:SECRET%zz@h/d",
        "postgresql://u:SECRET@h/d?no_such_parameter=SECRET",
        "postgresql://u:SECRET@h:99999999/d?schema=",
        "postgresql://u:SECRET@h/d?schema=" + "x" * 64,
    ],
)
def test_a_url_that_cannot_be_read_is_refused_in_one_line_without_its_secrets(url: str) -> None:
    with pytest.raises(TaskPoolError) as refused:
        TaskPool(url)
    words = str(refused.value)
    assert words.startswith("postgresql://")
    assert "\n" not in words
    for secret in ("SEC", "RET"):
        assert secret not in words
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


def test_a_server_that_is_not_there_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(errors.PoolUnavailable) as refused:
        TaskPool("postgresql://u:SECRET@127.0.0.1:1/d")
    assert "127.0.0.1" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "SECRET" not in str(refused.value) + caplog.text


def test_a_database_or_role_that_is_not_there_is_one_line(postgres_server_url: str) -> None:
    whole = psycopg.conninfo.conninfo_to_dict(postgres_server_url)
    place = f"{whole.get('host', '')}:{whole.get('port', '')}"
    for url, words in (
        (f"postgresql://{whole['user']}@{place}/nosuchthing", "nosuchthing"),
        (f"postgresql://nosuchrole:SECRET@{place}/{whole['dbname']}", "nosuchrole"),
    ):
        with pytest.raises(errors.PoolUnavailable, match=words) as refused:
            TaskPool(url)
        assert "\n" not in str(refused.value)
        assert "SECRET" not in str(refused.value)


def test_a_wrong_password_or_none_is_one_line_that_says_where_to_look() -> None:
    problem = postgres_server.unusable()
    if problem is not None:
        pytest.skip(problem)
    with postgres_server.running("host all joe 127.0.0.1/32 scram-sha-256") as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE ROLE joe LOGIN SUPERUSER PASSWORD 'RIGHT'")
        for login in ("joe:SECRET", "joe"):
            with pytest.raises(
                errors.PoolUnavailable, match="see the URL's user, password"
            ) as told:
                TaskPool(server.url.replace("postgres@", f"{login}@"))
            assert "\n" not in str(told.value)
            assert "SECRET" not in str(told.value)
        TaskPool(server.url.replace("postgres@", "joe:RIGHT@")).publish("x")
        close_all()


def test_a_pool_shows_its_place_without_secrets(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, at, place = postgres_url.partition("://")[2].partition("@")
    url = f"postgresql://{user}:SECRET{at}{place}"
    monkeypatch.setenv("A2A_BASE_DIR", url)
    pool = TaskPool()
    assert isinstance(pool, PostgresPool)
    claim_error = f"{pool!r} {pool.base_dir} {pool._database.address!r}"
    assert "SECRET" not in claim_error
    assert f"@{place.partition('?')[0]}" in claim_error
    assert "SECRET" not in str(a2a.get_a2a_status())
    assert pickle.loads(pickle.dumps(pool))._database.address == pool._database.address


def test_two_schemas_are_two_pools(
    postgres_url: str, pool: PostgresPool, outsider: psycopg.Connection
) -> None:
    other = PostgresPool(postgres_url + "_other")
    try:
        pool.publish("x")
        assert other.counts()["available"] == 0
        assert other._database.address.channel != pool._database.address.channel
        outsider.execute(f"DROP TABLE {other._database.schema}.tasks CASCADE")
        with pytest.raises(errors.PoolUnavailable) as refused:  # of which of them it tells
            other.counts()
        assert str(refused.value).startswith(f"{other.base_dir}: ")
    finally:
        outsider.execute(f"DROP SCHEMA {other._database.schema} CASCADE")


def test_a_schema_with_any_name_will_do(
    postgres_server_url: str, outsider: psycopg.Connection
) -> None:
    mark = "&" if "?" in postgres_server_url else "?"
    pool = TaskPool(f"{postgres_server_url}{mark}schema=We%22ird%20%C3%A4%7B0%7D$$'.s")
    assert isinstance(pool, PostgresPool)
    try:
        pool.publish("x")
        claim = pool.claim_next("a")
        assert claim is not None
        claim.complete()
        assert pool.doctor()
    finally:
        outsider.execute(f"DROP SCHEMA {pool._database.schema} CASCADE")


def test_a_directory_is_no_url() -> None:
    assert not layout.is_url("/tmp/postgresql://x")
    assert layout.shown("/tmp/a@b:c?d") == "/tmp/a@b:c?d"


def test_without_psycopg_the_error_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['psycopg'] = None; import fastclaim\n"
        "try: fastclaim.TaskPool('postgresql://u:SECRET@h/d')\n"
        "except ImportError as error: print(error)"
    )
    run = [sys.executable, "-c", code]
    said = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert 'pip install "fastclaim[postgres]"' in said
    assert "SECRET" not in said

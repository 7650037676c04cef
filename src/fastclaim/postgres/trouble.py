"""What cannot be done about a server, in one line; and how long it is tried all the same."""

from __future__ import annotations

import errno
from typing import Final

import psycopg
from psycopg import errors as pg_errors

from ..errors import PoolUnavailable

# How long a verb goes on trying to reach a server that has gone, in seconds.
RECONNECT_S: Final = 30.0

_AGAIN: Final = "once that is mended, the same call can safely be made again"
_LOGIN: Final = "see the URL's user, password and database, and the server's pg_hba.conf"
_RIGHTS: Final = "the role needs to own the schema, or CREATE on the database to make it"


def unavailable(shown: str, error: Exception) -> PoolUnavailable:
    """One line about what a server, or the line to it, said.

    Parameters
    ----------
    shown : str
        The pool's URL, without secrets.
    error : Exception
        What was said; psycopg's own words have no password in them.
    """
    words = " ".join(str(error).split()) or type(error).__name__
    advice = _AGAIN
    if isinstance(error, psycopg.Error) and _is_about_login(error):
        advice = _LOGIN
    if isinstance(error, pg_errors.InsufficientPrivilege):
        advice = _RIGHTS
    problem = PoolUnavailable(f"{shown}: {words} ({advice})")
    if isinstance(error, pg_errors.DiskFull):
        problem.errno = errno.ENOSPC
    return problem


def _is_about_login(error: psycopg.Error) -> bool:
    if error.sqlstate is None:  # of a refused connection libpq tells no code
        line = error.pgconn
        return line is not None and bool(line.needs_password or line.used_password)
    return error.sqlstate.startswith("28")

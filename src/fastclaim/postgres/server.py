"""This process's connections to a database: shared by its pools, re-made when they break.

All pools of a process that name the same database share one `Server`: a few connections for
statements (psycopg's pool) and one session that says that this process lives (`session`).

A statement whose connection breaks may have been carried out or not. Whoever runs one through
`Server.run` has written it so that it can be run again, and is told that it is the second time.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import psycopg
import psycopg_pool
from psycopg import errors as pg_errors

from ..errors import LockTimeout, PoolUnavailable
from . import schema, trouble
from .session import Session, abandon
from .trouble import unavailable

if TYPE_CHECKING:
    from psycopg import Connection

    from .address import Address

T = TypeVar("T")

# What a verb raises says it all: where nobody has configured logging, the warnings of psycopg's
# pool would go to stderr, many of one outage. A handler that is configured gets them all the same.
logging.getLogger("psycopg.pool").addHandler(logging.NullHandler())

# How long a verb waits for a row that somebody else's transaction holds; as `finishing` does.
LOCK_TIMEOUT_S: Final = 10.0
# Threads of one process that talk to the server at once; more than that wait for one another.
CONNECTIONS_MAX: Final = 16
_FIRST_PAUSE_S: Final = 0.01
_LONGEST_PAUSE_S: Final = 1.0

# What a server says that has gone, is about to go, is coming up, or has become a standby.
_GONE: Final = (
    psycopg.InterfaceError,
    pg_errors.AdminShutdown,
    pg_errors.CrashShutdown,
    pg_errors.CannotConnectNow,
    pg_errors.IdleSessionTimeout,
    pg_errors.IdleInTransactionSessionTimeout,
    pg_errors.ReadOnlySqlTransaction,
)


# Whatever the role's settings say: these are what the statements were written for. Without seqscan,
# because a plan made for an empty table would read all of it when it is full, and with times to the
# last digit; not through a pooler, which gives the connection, settings and all, to others.
_SETTINGS: Final = """
SELECT CASE WHEN pg_backend_pid() = %s THEN
    (SELECT backend_start::text FROM pg_stat_get_activity(pg_backend_pid())) END,
    set_config('default_transaction_isolation', 'read committed', false),
    set_config('lock_timeout', %s, false),
    CASE WHEN pg_backend_pid() = %s THEN set_config('enable_seqscan', 'off', false) END,
    CASE WHEN pg_backend_pid() = %s THEN set_config('extra_float_digits', '1', false) END
"""
# What a backend has begun it carries out, also for a client that has gone: after a wait for a lock,
# say. So it is ended, and waited for, before anybody looks whether it has; the time is in ms.
_END_BACKEND: Final = """
SELECT pg_terminate_backend(%(pid)s, 5000) FROM pg_stat_get_activity(%(pid)s)
WHERE backend_start = %(since)s::timestamptz
"""


class _Opened(NamedTuple):
    """A connection of the pool's.

    Attributes
    ----------
    at_s : float
        Since when, by the monotonic clock.
    backend : dict
        Its parameters for `_END_BACKEND`; empty behind a pooler, where the backend is others' too.
    """

    at_s: float
    backend: dict[str, object]


class Server:
    """The connections of this process to one database.

    Parameters
    ----------
    address : Address
        Of the first pool that asked; its schema does not matter here.
    """

    def __init__(self, address: Address) -> None:
        self._conninfo = address.conninfo
        self._opened: weakref.WeakKeyDictionary[Connection, _Opened] = weakref.WeakKeyDictionary()
        self._broken_at_s = -math.inf
        self.session = Session(address)
        self._pool = psycopg_pool.ConnectionPool(
            self._conninfo,
            kwargs={"autocommit": True},
            min_size=0,
            max_size=CONNECTIONS_MAX,
            timeout=trouble.RECONNECT_S,
            reconnect_timeout=trouble.RECONNECT_S,
            configure=self._configure,
            num_workers=2,
            name="fastclaim",
            open=True,
        )

    def _configure(self, connection: Connection) -> None:
        pid = connection.info.backend_pid
        self._opened[connection] = _Opened(time.monotonic(), {})
        settings = [pid, f"{LOCK_TIMEOUT_S:g}s", pid, pid]
        ((since, *_),) = connection.execute(_SETTINGS, settings).fetchall()
        if since is None:  # a pooler's: what was prepared may be with another one the next time
            connection.prepare_threshold = None
        else:
            self._opened[connection] = _Opened(time.monotonic(), {"pid": pid, "since": since})

    @contextlib.contextmanager
    def _lend(self, timeout_s: float) -> Iterator[Connection]:
        """A connection that was opened since the line broke the last time.

        The others are as dead, and to ask each would take as long as it took for that one.
        """
        while True:
            with self._pool.connection(timeout=timeout_s) as connection:
                if self._opened[connection].at_s > self._broken_at_s:
                    yield connection
                    return
                connection.close()

    def make(self, address: Address, must_exist: bool) -> None:
        """Make a pool's tables, unless they must exist, or bring them to this code's version.

        Raises
        ------
        PoolUnavailable
            The server cannot be reached, or refuses.
        TaskPoolError
            They are newer than this code.
        FileNotFoundError
            They must exist, and do not.
        """
        if self._opened:
            return self.run(
                lambda connection, _: schema.make(connection, address, must_exist), address.shown
            )
        # Beside psycopg's pool, which would try for long before it says that nobody is there.
        try:
            with psycopg.connect(self._conninfo, autocommit=True) as connection:
                schema.make(connection, address, must_exist)
        except psycopg.Error as error:
            raise unavailable(address.shown, error) from None

    def run(self, work: Callable[[Connection, bool], T], shown: str, task_id: object = None) -> T:
        """Do something with a connection, and again if the connection breaks.

        Parameters
        ----------
        work : callable
            Gets the connection, and whether this is not the first try: then an earlier one may
            have been carried out.
        shown : str
            The pool's URL, without secrets, and
        task_id : object
            the task: what the errors name.

        Raises
        ------
        PoolUnavailable
            The server was not to be reached for `trouble.RECONNECT_S` seconds, or refused.
        LockTimeout
            Somebody's transaction holds the row.
        """
        retried = False
        backends: list[dict[str, object]] = []  # of the connections that broke
        for left_s in _turns(trouble.RECONNECT_S):
            opened = None
            try:
                with self._lend(left_s) as connection:
                    opened = self._opened[connection]
                    _end(connection, backends)
                    try:
                        return work(connection, retried)
                    except _GONE:
                        connection.close()  # a standby's is not broken, but of no use
                        raise
            except psycopg_pool.PoolTimeout:
                self._end_later(backends)
                raise self._unreachable(shown) from None
            except pg_errors.LockNotAvailable:
                what = "a task" if task_id is None else f"task {task_id!r}"
                raise LockTimeout(
                    f"{what} was held by others' transactions for {LOCK_TIMEOUT_S:g} s", task_id
                ) from None
            except (pg_errors.SerializationFailure, pg_errors.DeadlockDetected) as error:
                problem: psycopg.Error = error  # nothing was done: try again
                continue
            except _GONE as error:
                problem = error
            except psycopg.OperationalError as error:
                # With a code it is the server's word about this statement; without, a lost line.
                if error.sqlstate is not None and not error.sqlstate.startswith("08"):
                    raise unavailable(shown, error) from None
                problem = error
            except pg_errors.UniqueViolation:
                raise
            except psycopg.Error as error:
                raise unavailable(shown, error) from None
            retried = True
            if opened is not None:
                self._broken_at_s = time.monotonic()
                backends += [opened.backend] if opened.backend else []
        self._end_later(backends)
        raise unavailable(shown, problem)

    def _end_later(self, backends: list[dict[str, object]]) -> None:
        for backend in backends:
            self.session.owe(_END_BACKEND, backend)

    def _unreachable(self, shown: str) -> PoolUnavailable:
        """What keeps us from connecting, asked once more: psycopg's pool does not say."""
        try:
            psycopg.connect(self._conninfo, autocommit=True, connect_timeout=3).close()
        except psycopg.Error as error:
            return unavailable(shown, error)
        return PoolUnavailable(
            f"{shown}: all {CONNECTIONS_MAX} connections of this process were in use for"
            f" {trouble.RECONNECT_S:g} s"
        )

    def close(self) -> None:
        """Close all connections: bound claims of this process go to whoever asks next."""
        self.session.close()
        self._pool.close()

    def forget(self) -> None:
        """In a forked child: let the parent's connections be the parent's alone."""
        for connection in [*self._opened]:
            abandon(connection)
        self._pool._closed = True  # or its __del__ waits for threads that the child does not have
        self.session.forget()


def _end(connection: Connection, backends: list[dict[str, object]]) -> None:
    """Let these have carried out what they were told, or never do it; then forget them."""
    while backends:
        with contextlib.suppress(pg_errors.InsufficientPrivilege):  # of a role that the URL sets
            connection.execute(_END_BACKEND, backends[-1])
        backends.pop()


def _turns(timeout_s: float) -> Iterator[float]:
    """Yield the seconds that are left: at once, then after growing pauses until it is late."""
    until_s = time.monotonic() + timeout_s
    yield timeout_s
    pause_s = _FIRST_PAUSE_S
    while (left_s := until_s - time.monotonic()) > 0:
        time.sleep(min(pause_s * random.uniform(0.5, 1.0), left_s))
        yield max(left_s, _LONGEST_PAUSE_S)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


# One for each database, for as long as the process lives: its claims live as long. -----

_servers: dict[str, Server] = {}
_lock = threading.Lock()


def server_of(address: Address) -> Server:
    """This process's connections to the database at `address`."""
    server = _servers.get(address.conninfo)
    if server is not None:
        return server
    with _lock:
        server = _servers.get(address.conninfo)
        if server is None:
            server = _servers[address.conninfo] = Server(address)
        return server


def close_all() -> None:
    """Close every connection of this process; the next call of a pool makes new ones."""
    with _lock:
        while _servers:
            _servers.popitem()[1].close()


def _forget_in_child() -> None:
    global _lock
    _lock = threading.Lock()  # a thread that is not here may have held it
    for server in _servers.values():
        server.forget()
    _servers.clear()


os.register_at_fork(after_in_child=_forget_in_child)
atexit.register(close_all)

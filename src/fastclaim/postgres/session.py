"""The session that says that this process lives, and hears when tasks become available.

It is one connection, which a thread of its own keeps. While it stands, the process holds an
advisory lock whose number its claims carry as `owner`: the server drops the lock when the process,
its host or the line between them dies, and then the claims are anybody's. If only the connection
breaks, the thread makes a new one at once and takes the same lock again.

While a thread of this process waits for tasks, the session also listens to the pool's channel, and
holds the pool's *waiting* lock, shared. Who makes tasks available tries that lock, exclusively, in
the same transaction, and notifies only if somebody has it: NOTIFY makes commits queue up. Since
the lock is held until the commit, who begins to wait either is seen by the publisher or sees the
task.

A notification tells of how many tasks it is. Every process that waits hears of it, and wakes as
many of its threads, of each kind: those of one kind can all claim the same tasks. Each of them
looks once, at least; who stops waiting without a look that was owed wakes another in its place.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
import secrets
import select
import socket
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import psycopg

from ..errors import TaskPoolError
from . import trouble

if TYPE_CHECKING:
    from psycopg import Connection

    from .address import Address

logger = logging.getLogger("fastclaim.pool")

# How long a session goes on listening after the last thread has stopped waiting.
_LINGER_S: Final = 2.0
_FIRST_PAUSE_S: Final = 0.02
_MOST_DIGITS: Final = 19
_LONGEST_PAUSE_S: Final = 1.0

_SETTINGS: Final = (
    # So that the server finds out that this host is gone; nothing on unix sockets.
    "SELECT set_config('tcp_keepalives_idle', '10', false),"
    " set_config('tcp_keepalives_interval', '5', false),"
    " set_config('tcp_keepalives_count', '3', false),"
    " set_config('tcp_user_timeout', '25000', false),"
    # It idles for a living.
    " set_config('idle_session_timeout', '0', false)"
)


# Who holds a row that a claim is to be given back in must not hold up the session.
_NOT_FOR_LONG: Final = "SET LOCAL lock_timeout = '100ms'"
# For how long it is waited that the thread ends by itself, in seconds.
_PATIENCE_S: Final = 0.5


class Session:
    """See the head of this module.

    Parameters
    ----------
    address : Address
        Where; its schema does not matter here.
    """

    def __init__(self, address: Address) -> None:
        self._shown = address.shown
        self._conninfo = address.conninfo
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._line: Connection | None = None
        self._connection: Connection | None = None  # the same, once it holds the lock
        self._problem: Exception = TimeoutError("it does not answer")
        self._closing = False
        self._pause_s = _FIRST_PAUSE_S
        self._pooler = False
        self._owner = secrets.randbits(62) | 1
        self._waiters: dict[str, list[Waiter]] = {}  # by channel
        self._waiting_locks: dict[str, int] = {}  # a channel's lock
        self._armed: set[str] = set()
        self._owed: list[tuple[str, Mapping[str, Any]]] = []  # statements
        self._put_off: list[tuple[str, Mapping[str, Any]]] = []  # those that were refused
        self._put_off_until_s = 0.0
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    @property
    def number(self) -> int:
        """What `owner` returns, whether the lock is held by now or not."""
        return self._owner

    def owner(self, shown: str) -> int:
        """The number of the lock that this process holds for as long as it lives.

        Parameters
        ----------
        shown : str
            The URL that an error names, without secrets.

        Raises
        ------
        PoolUnavailable
            The session cannot be made.
        TaskPoolError
            A pooler stands between, which lends each statement another connection.
        """
        with self._changed:
            self._start()
            if not self._is_ready() and not self._changed.wait_for(
                self._is_ready, trouble.RECONNECT_S
            ):
                raise trouble.unavailable(shown, self._problem)
            if self._pooler:
                raise TaskPoolError(
                    "a pooler such as pgbouncer stands between: claims cannot be bound to this"
                    " process. Use TaskPool(..., bind_claims=False) and leases, or connect directly"
                )
            return self._owner

    def _is_ready(self) -> bool:
        return self._pooler or (self._connection is not None and not self._owed)

    def owe(self, statement: str, parameters: Mapping[str, Any]) -> None:
        """Run a statement as soon as the line stands, at least once; tried before `owner` returns.

        Parameters
        ----------
        statement : str
            SQL that may be run twice.
        parameters : Mapping
            Its parameters.
        """
        with self._changed:
            self._owed.append((statement, parameters))
            self._start()
        self._wake()

    @contextlib.contextmanager
    def waiting(
        self, address: Address, kind: Hashable, ring: Callable[[], bool] | None = None
    ) -> Iterator[Waiter]:
        """Listen to a pool's channel until the block ends.

        Parameters
        ----------
        address : Address
            The pool's.
        kind : hashable
            Equal for threads that can all claim the same tasks.
        ring : callable, optional
            See `Waiter`.
        """
        channel = address.channel
        waiter = Waiter(self, channel, kind, ring)
        with self._lock:
            self._start()
            self._waiting_locks[channel] = address.key("waiting")
            self._waiters.setdefault(channel, []).append(waiter)
        try:
            self._wake()
            yield waiter
        except BaseException:
            waiter.is_awake = True  # it may have been woken, and not have looked
            raise
        finally:
            with self._lock:
                self._dismiss(waiter)
                if waiter.is_awake:
                    self._wake_for(channel, 1, kind)

    def close(self) -> None:
        """End the session, and with it this process's hold on its bound claims."""
        with self._changed:
            self._closing = True
            thread = self._thread
        self._wake()
        if thread is not None:
            thread.join(_PATIENCE_S)
            # It may wait for a lock that others keep for ever.
            if thread.is_alive() and (line := self._line) is not None:
                _break_off(line)
                thread.join(_PATIENCE_S)
            if thread.is_alive():
                return  # it is connecting, and ends when it has
        os.close(self._wake_read)
        os.close(self._wake_write)

    def forget(self) -> None:
        """In a forked child: the parent's session must end when the parent ends."""
        if self._connection is not None:
            abandon(self._connection)
        os.close(self._wake_read)
        os.close(self._wake_write)

    # The thread ---------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="fastclaim-session", daemon=True)
            self._thread.start()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it is awake
            os.write(self._wake_write, b"\0")

    def _run(self) -> None:
        while not self._closing:
            try:
                self._connect_and_serve()
            except (psycopg.Error, OSError) as error:
                with self._changed:
                    self._problem = error
                pause_s = self._pause_s * random.uniform(0.5, 1.0)
                _wait_for([self._wake_read], pause_s)
                self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def _connect_and_serve(self) -> None:
        """Until the connection breaks."""
        forks = _forks
        with psycopg.connect(self._conninfo, autocommit=True) as connection:
            self._line = connection
            if self._closing:
                return
            pid = connection.execute("SELECT pg_backend_pid()").fetchall()[0][0]
            # A pooler makes up the number that it tells at connecting.
            if pid != connection.info.backend_pid:
                with self._changed:
                    self._pooler = True
                    self._changed.notify_all()
                return self._idle(connection)
            connection.execute(_SETTINGS)
            # Before the lock: the server may think for long that our last connection has it.
            self._settle(connection)
            connection.execute("SELECT pg_advisory_lock(%s)", [self._owner])
            try:
                with self._changed:
                    self._connection = connection
                    self._changed.notify_all()
                # A child that was forked before this line has a copy of the connection, which
                # would keep the session standing after this process's death.
                if _forks == forks:
                    self._pause_s = _FIRST_PAUSE_S
                    self._serve(connection)
            finally:
                with self._changed:
                    self._connection = None
                    self._armed.clear()
                    for channel in self._waiters:  # who knows what was missed
                        self._wake_for(channel, math.inf)
                    self._changed.notify_all()

    def _idle(self, connection: Connection) -> None:
        while not self._closing:
            self._settle(connection)
            _wait_for([self._wake_read], _LINGER_S if self._put_off else None)
            _drain(self._wake_read)

    def _settle(self, connection: Connection) -> None:
        """Do what is owed; what is refused is tried again later, unless it always will be."""
        with self._changed:
            owed = [*self._owed]
            if time.monotonic() >= self._put_off_until_s:
                owed += self._put_off
        for statement, parameters in owed:
            is_refused = False
            try:
                with connection.transaction():
                    connection.execute(_NOT_FOR_LONG)
                    connection.execute(statement, parameters)
            except psycopg.ProgrammingError as error:
                logger.error("%s: claims cannot be given back: %s", self._shown, error)
            except psycopg.Error:
                if connection.closed:
                    raise
                is_refused = True
                self._put_off_until_s = time.monotonic() + _LINGER_S
            self._settled((statement, parameters), is_refused)

    def _settled(self, owed: tuple[str, Mapping[str, Any]], is_refused: bool) -> None:
        with self._changed:
            for owing in (self._owed, self._put_off):
                if owed in owing:
                    owing.remove(owed)
            if is_refused:
                self._put_off.append(owed)
            self._changed.notify_all()

    def _serve(self, connection: Connection) -> None:
        """Listen to the channels that are wanted, and pass on what comes."""
        idle_since_s: dict[str, float] = {}
        while not self._closing:
            for channel in list(self._waiters):
                if self._waiters[channel]:
                    idle_since_s.pop(channel, None)
                    self._arm(connection, channel)
                elif channel in self._armed:
                    since_s = idle_since_s.setdefault(channel, time.monotonic())
                    if time.monotonic() - since_s >= _LINGER_S:
                        self._disarm(connection, channel)
            self._settle(connection)
            # A notification may have come with the answer to one of these statements.
            self._pass_on(connection)
            timeout_s = _LINGER_S if self._armed or self._put_off else None
            _wait_for([connection.fileno(), self._wake_read], timeout_s)
            _drain(self._wake_read)

    def _arm(self, connection: Connection, channel: str) -> None:
        if channel in self._armed:
            return
        connection.execute(f"LISTEN {channel}")
        connection.execute("SELECT pg_advisory_lock_shared(%s)", [self._waiting_locks[channel]])
        with self._changed:
            self._armed.add(channel)
            self._changed.notify_all()
            for waiter in [*self._waiters[channel]]:
                if waiter.is_late:
                    self._wake_one(waiter)  # who knows what was missed

    def _disarm(self, connection: Connection, channel: str) -> None:
        with self._changed:
            if self._waiters[channel]:
                return
            self._armed.discard(channel)
        connection.execute("SELECT pg_advisory_unlock_shared(%s)", [self._waiting_locks[channel]])
        connection.execute(f"UNLISTEN {channel}")

    def _pass_on(self, connection: Connection) -> None:
        for notify in connection.notifies(timeout=0):
            # Whoever can connect can say anything here.
            is_number = notify.payload.isdecimal() and len(notify.payload) < _MOST_DIGITS
            tasks = int(notify.payload) if is_number else math.inf
            with self._lock:
                self._wake_for(notify.channel, tasks)

    def _wake_for(self, channel: str, tasks: float, kind: Hashable = None) -> None:
        """Wake as many of each kind, or of one, as there are tasks; who is awake has others."""
        left: dict[Hashable, float] = {}
        # A copy: the garbage collector may end a coroutine's wait in the middle of this.
        for waiter in [*self._waiters.get(channel, ())]:
            if waiter.is_awake or kind not in (None, waiter.kind):
                continue
            if left.setdefault(waiter.kind, tasks) > 0 and self._wake_one(waiter):
                left[waiter.kind] -= 1

    def _wake_one(self, waiter: Waiter) -> bool:
        if waiter.wake():
            return True
        self._dismiss(waiter)  # it will not come to do so itself
        return False

    def _dismiss(self, waiter: Waiter) -> None:
        waiters = self._waiters[waiter.channel]
        if waiter in waiters:
            waiters.remove(waiter)


class Waiter:
    """One thread's, or coroutine's, wait for a pool's news.

    Parameters
    ----------
    session : Session
        Which hears them.
    channel : str
        Where.
    kind : hashable
        See `Session.waiting`.
    ring : callable, optional
        What wakes a coroutine; says whether it could. It is called with the session's lock held.

    Attributes
    ----------
    is_awake : bool
        Whether there was news for it since `arm`.
    is_late : bool
        Whether what became available since `arm` may not have been heard.
    """

    def __init__(
        self,
        session: Session,
        channel: str,
        kind: Hashable,
        ring: Callable[[], bool] | None = None,
    ) -> None:
        self.kind = kind
        self.is_awake = False
        self.is_late = False
        self._ring = ring
        self._session = session
        self.channel = channel
        self._woken = threading.Condition(session._lock)

    def arm(self, timeout_s: float) -> None:
        """Return once whatever becomes available from now on is heard, or after this many seconds.

        If that is too soon, since the line is down, it is woken as soon as all is heard again.
        Behind a pooler nothing ever is, and it returns at once.
        """
        session = self._session
        with session._lock:
            session._changed.wait_for(
                lambda: self.channel in session._armed or session._pooler, timeout_s
            )
            self.is_late = self.channel not in session._armed
            self.is_awake = False

    def wait(self, timeout_s: float) -> None:
        """Return when there was news since `arm`, or after that many seconds."""
        with self._session._lock:
            self._woken.wait_for(lambda: self.is_awake, timeout_s)

    def wake(self) -> bool:
        """Let it look again, with the session's lock held; whether anybody is there to look."""
        self.is_awake = True
        self._woken.notify()
        return self._ring is None or self._ring()


_forks = 0


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(before=_count_fork)


def abandon(connection: Connection) -> None:
    """Close a copy of a connection that is somebody else's, without a word to the server."""
    with contextlib.suppress(OSError, psycopg.Error):
        nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(nowhere, connection.fileno(), inheritable=False)
        os.close(nowhere)
        connection.close()


def _break_off(connection: Connection) -> None:
    """End whatever a thread waits for with this connection."""
    with contextlib.suppress(OSError, psycopg.Error):
        line = socket.socket(fileno=os.dup(connection.fileno()))
        with line:
            line.shutdown(socket.SHUT_RDWR)


def _wait_for(descriptors: list[int], timeout_s: float | None) -> None:
    """Until one of them is readable; they may be beyond the 1023 that select(2) knows."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    poll.poll(None if timeout_s is None else timeout_s * 1000)


def _drain(descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while os.read(descriptor, 64):
            pass

"""A pool's place on a server, and how its statements are run there."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from . import schema
from .address import Address, parse
from .server import server_of
from .session import Waiter
from .window import Window

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from psycopg import Connection

T = TypeVar("T")
Rows = list[tuple[Any, ...]]

# Ends a statement that makes tasks available: wakes who waits, if anybody does. See `session`.
NOTIFY: Final = (
    "CASE WHEN NOT pg_try_advisory_xact_lock({waiting}) THEN pg_notify('{channel}', {tasks}) END"
)
# How many tasks: one; as many as the statement has rows; as many as a parameter says; nobody knows.
# One text for all rows: of equal notifications of a transaction the server sends one.
_NUMBERS: Final = {
    "notify_one": "'1'",
    "notify": "(count(*) OVER ())::text",
    "notify_of": "%s::text",
    "notify_all": "'all'",
}


class Database:
    """A pool's tables.

    Parameters
    ----------
    url : str
        See `address`.
    synchronous : bool
        Whether a commit waits for the server's disk.

    Attributes
    ----------
    window : Window
        What claims of this process have found out about how many others there are.

    Raises
    ------
    TaskPoolError
        The URL cannot be read.
    """

    def __init__(self, url: str, synchronous: bool = True) -> None:
        self.url = url
        self.synchronous = synchronous
        self.address: Address = parse(url, synchronous)
        self.schema = schema.quoted(self.address)
        self._names = {
            "schema": self.schema,
            "now": schema.NOW,
            "channel": self.address.channel,
            "waiting": self.address.key("waiting"),
        }
        self._names |= {
            name: NOTIFY.format(tasks=tasks, **self._names) for name, tasks in _NUMBERS.items()
        }
        self._texts: dict[str, str] = {}
        self.window = Window()

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.url, self.synchronous)

    def make(self, *, must_exist: bool = False) -> None:
        """Make the tables, or bring them to this version.

        Raises
        ------
        PoolUnavailable, TaskPoolError, FileNotFoundError
            See `server.Server.make`.
        """
        server_of(self.address).make(self.address, must_exist)

    def sql(self, text: str) -> str:
        """A statement with the names of this pool in it."""
        formatted = self._texts.get(text)
        if formatted is None:
            formatted = self._texts[text] = text.format(**self._names)
        return formatted

    def run(self, work: Callable[[Connection, bool], T], task_id: object = None) -> T:
        """See `server.Server.run`."""
        return server_of(self.address).run(work, self.address.shown, task_id)

    def query(
        self, text: str, parameters: Mapping[str, Any] | Sequence[Any], task_id: object = None
    ) -> Rows:
        """Run one statement that may be run twice, and fetch what it returns."""
        statement = self.sql(text)
        return self.run(
            lambda connection, _: connection.execute(statement, parameters).fetchall(), task_id
        )

    def owe(self, text: str, parameters: Mapping[str, Any]) -> None:
        """Run a statement, which may be run twice, once the server can be reached.

        See `session.Session.owe`.
        """
        server_of(self.address).session.owe(self.sql(text), parameters)

    @property
    def own_number(self) -> int:
        """The number that `owner` returns, whether this process holds that lock by now or not."""
        return server_of(self.address).session.number

    def owner(self) -> int:
        """The lock that says that this process lives; see `session.Session.owner`."""
        return server_of(self.address).session.owner(self.address.shown)

    def waiting(
        self, kind: Hashable, ring: Callable[[], bool] | None = None
    ) -> AbstractContextManager[Waiter]:
        """Listen for tasks that become available; see `session.Session.waiting`."""
        return server_of(self.address).session.waiting(self.address, kind, ring)

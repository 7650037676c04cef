"""Move agents' messages and their registry from a directory to PostgreSQL, or back.

A message that waits is *set apart*, so that nobody receives it, put into the other inbox, and
removed; one that was received is put there as received, and removed. As with tasks (`migrate`) an
interruption between any two steps leaves something that the next run (the same way) recognises: a
message that is set apart, or the same message in both places. In a directory, what is set apart
stands in ``agents/{agent_id}/migrating/``; in a table it has a receipt that no receiver has.

An agent's entry in the registry stays while the agent says there that it lives; after that it is
moved, unless the agent has registered anew in the other place since. Its inbox stays, empty: who
still writes to it is heard by the next run.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from .. import layout
from ..agent_names import agent_directory
from ..errors import InvalidName
from ..messaging import A2AMessage
from ..registry import HEARTBEAT_LIFETIME_S, AgentRegistry
from ..whole_file import read_whole, write_new, write_whole
from .database import Database
from .migrate import MOVER
from .registry import PostgresRegistry, check_agent_id

# Where a message is: to be received, on its way, or received.
WAITING: Final = "waiting"
APART: Final = "apart"
RECEIVED: Final = "received"

_ON_ITS_WAY: Final = "the other place has set it apart, to move it here: finish that run first"

Entry = dict[str, Any]


class AgentMigration(NamedTuple):
    """What a run of `migrate_agents` came to.

    Attributes
    ----------
    agents, messages : int
        How many entries of the registry and how many messages are in the other place now.
    left : list of (str, str)
        What stayed where it was, each with the reason.
    """

    agents: int
    messages: int
    left: list[tuple[str, str]]


def migrate_agents(
    source: str | os.PathLike[str], target: str | os.PathLike[str]
) -> AgentMigration:
    """Move the messages and the registry of one pool into another; one of the two is on PostgreSQL.

    Agents may go on writing and receiving. Run it again for what was left, or after an
    interruption.

    Parameters
    ----------
    source, target : str or os.PathLike
        A directory, or a URL; see `TaskPool`.

    Returns
    -------
    AgentMigration
        How much was moved, and what was not.

    Raises
    ------
    TaskPoolError, OSError
        A place cannot be worked with; what was moved is moved, and all else is where it was.
    """
    move = _Move(_side(source), _side(target))
    move.registry()
    move.inboxes()
    return AgentMigration(move.agents, move.messages, move.left)


class NotMovable(Exception):
    """Something has to stay; the message says why."""


class Side(Protocol):
    """One of the two places, as a mover sees it."""

    def registry(self) -> dict[str, Any]:
        """The registry's entries, by agent."""

    def register(self, agent_id: str, entry: Entry) -> None:
        """Enter an agent, unless an entry is there whose heartbeat is as new."""

    def unregister(self, agent_id: str, entry: Entry) -> bool:
        """Strike an agent off, if this still is its entry; whether it was."""

    def inboxes(self) -> list[str]:
        """The agents that have one."""

    def open_inbox(self, agent_id: str) -> None:
        """Let an agent have one."""

    def names(self, agent_id: str) -> Iterator[tuple[str, str]]:
        """An inbox's messages, by where they are and what they are called."""

    def read(self, agent_id: str, where: str, name: str) -> str | None:
        """A message; None if it is not there any more. NotMovable if it cannot be read."""

    def set_apart(self, agent_id: str, name: str) -> str | None:
        """Let nobody receive a message that waits; the message, or None if somebody was faster."""

    def put_back(self, agent_id: str, name: str) -> None:
        """Let a message that was set apart be received."""

    def deliver(self, agent_id: str, name: str, message: str, received: bool) -> str | None:
        """Put a message there; if one of this name is there, in whatever place, that one instead.

        NotMovable if that one is on its way here.
        """

    def remove(self, agent_id: str, where: str, name: str) -> None:
        """Remove a message that was set apart or received."""


class _Move:
    def __init__(self, source: Side, target: Side) -> None:
        self._source, self._target = source, target
        self.agents = self.messages = 0
        self.left: list[tuple[str, str]] = []

    def registry(self) -> None:
        try:
            registry = self._source.registry()
        except ValueError as error:
            self.left.append(("the registry", f"it cannot be read: {error}"))
            return
        for agent_id, entry in registry.items():
            try:
                self._agent(agent_id, entry)
            except NotMovable as reason:
                self.left.append((f"agent {agent_id}", f"{reason}"))

    def inboxes(self) -> None:
        for agent_id in self._source.inboxes():
            try:
                self._target.open_inbox(_agents(agent_id))
            except NotMovable as reason:
                self.left.append((f"inbox of {agent_id!r}", f"{reason}"))
                continue
            for where, name in self._source.names(agent_id):
                try:
                    self._message(agent_id, where, name)
                except NotMovable as reason:
                    self.left.append((f"message {name} for {agent_id}", f"{reason}"))

    def _agent(self, agent_id: str, entry: Any) -> None:
        if not isinstance(entry, dict):
            raise NotMovable("its entry is no JSON object")
        heartbeat = _heartbeat(entry)
        if time.time() - heartbeat < HEARTBEAT_LIFETIME_S:
            raise NotMovable("it lives there, by its heartbeat")
        self._target.register(_agents(agent_id), entry)
        if not self._source.unregister(agent_id, entry) and agent_id in self._source.registry():
            raise NotMovable("it has just said that it lives there")
        self.agents += 1

    def _message(self, agent_id: str, where: str, name: str) -> None:
        message = self._source.read(agent_id, where, _plain(name))
        _check_message(message)
        if where == WAITING:
            message, where = self._source.set_apart(agent_id, name), APART
        if message is None:
            return  # received meanwhile, or moved by another run
        try:
            other = self._target.deliver(agent_id, name, message, where == RECEIVED)
            if other is not None and not _is_same(other, message):
                raise NotMovable("the other inbox has another message of this name")
        except NotMovable:
            if where == APART:
                self._source.put_back(agent_id, name)
            raise
        self._source.remove(agent_id, where, name)
        self.messages += 1


def _heartbeat(entry: Entry) -> float:
    """Seconds since the epoch; long ago for what is no time."""
    value = entry.get("last_heartbeat")
    return value if isinstance(value, int | float) else 0.0


def _check_message(message: str | None) -> None:
    try:
        if message is not None:
            A2AMessage.from_json(message)
    except (TypeError, ValueError) as error:
        raise NotMovable(f"it is no message: {error}") from None


def _is_same(one: str, other: str) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


def _agents(agent_id: str) -> str:
    """An agent's id, if both places can have it; NotMovable."""
    try:
        return check_agent_id(_plain(agent_id))
    except InvalidName as error:
        raise NotMovable(f"{error}") from None


def _plain(name: str) -> str:
    """A name, if both places can have it; NotMovable."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise NotMovable("its name is not UTF-8") from None
    return name


def _side(place: str | os.PathLike[str]) -> Side:
    return _Server(str(place)) if layout.is_url(place) else _Directory(Path(place))


def _registry_at(place: str) -> AgentRegistry:
    registry = AgentRegistry.__new__(AgentRegistry)  # not where A2A_BASE_DIR says
    registry._open(place)
    return registry


# On PostgreSQL ------------------------------------------------------------------------------------

# A message that is set apart has the receipt MOVER.

_REGISTER: Final = """
INSERT INTO {schema}.agents AS a (agent_id, info, last_heartbeat) VALUES (%s, %s, %s)
ON CONFLICT (agent_id) DO UPDATE
    SET info = excluded.info, last_heartbeat = excluded.last_heartbeat
    WHERE a.info IS NULL OR coalesce(a.last_heartbeat, 0) < excluded.last_heartbeat
RETURNING agent_id
"""
_UNREGISTER: Final = """
UPDATE {schema}.agents SET info = NULL
WHERE agent_id = %s AND coalesce(last_heartbeat, 0) = %s AND info IS NOT NULL RETURNING agent_id
"""
_OPEN_INBOX: Final = """
INSERT INTO {schema}.agents (agent_id) VALUES (%s) ON CONFLICT DO NOTHING RETURNING agent_id
"""
_INBOXES: Final = """
SELECT agent_id FROM {schema}.agents UNION SELECT to_agent FROM {schema}.messages ORDER BY 1
"""
_NAMES: Final = f"""
SELECT CASE WHEN received_at IS NULL THEN '{WAITING}'
    WHEN receipt = '{MOVER}' THEN '{APART}' ELSE '{RECEIVED}' END, name
FROM {{schema}}.messages WHERE to_agent = %s ORDER BY name
"""
_READ: Final = f"""
SELECT message, receipt = '{MOVER}' FROM {{schema}}.messages WHERE to_agent = %s AND name = %s
"""
_SET_APART: Final = f"""
UPDATE {{schema}}.messages SET received_at = {{now}}, receipt = '{MOVER}'
WHERE to_agent = %s AND name = %s AND (received_at IS NULL OR receipt = '{MOVER}')
RETURNING message
"""
_PUT_BACK: Final = f"""
UPDATE {{schema}}.messages SET received_at = NULL, receipt = NULL
WHERE to_agent = %s AND name = %s AND receipt = '{MOVER}' RETURNING name
"""
_DELIVER: Final = """
INSERT INTO {schema}.messages (to_agent, name, message, received_at)
VALUES (%s, %s, %s, CASE WHEN %s THEN {now} END)
ON CONFLICT (to_agent, name) DO NOTHING RETURNING name
"""
_REMOVE: Final = f"""
DELETE FROM {{schema}}.messages WHERE to_agent = %s AND name = %s AND received_at IS NOT NULL
    AND (receipt IS NOT DISTINCT FROM '{MOVER}') = %s
RETURNING name
"""


class _Server:
    def __init__(self, url: str) -> None:
        self._database = Database(url)
        self._database.make()
        self._registry = _registry_at(url)
        assert isinstance(self._registry, PostgresRegistry)

    def registry(self) -> dict[str, Any]:
        return self._registry._load_registry()

    def register(self, agent_id: str, entry: Entry) -> None:
        self._database.query(_REGISTER, [agent_id, json.dumps(entry), _heartbeat(entry)])

    def unregister(self, agent_id: str, entry: Entry) -> bool:
        return bool(self._database.query(_UNREGISTER, [agent_id, _heartbeat(entry)]))

    def inboxes(self) -> list[str]:
        return [row[0] for row in self._database.query(_INBOXES, [])]

    def open_inbox(self, agent_id: str) -> None:
        self._database.query(_OPEN_INBOX, [agent_id])

    def names(self, agent_id: str) -> Iterator[tuple[str, str]]:
        yield from self._database.query(_NAMES, [agent_id])

    def read(self, agent_id: str, where: str, name: str) -> str | None:
        for message, _ in self._database.query(_READ, [agent_id, name]):
            return str(message)
        return None

    def set_apart(self, agent_id: str, name: str) -> str | None:
        for (message,) in self._database.query(_SET_APART, [agent_id, name]):
            return str(message)
        return None

    def put_back(self, agent_id: str, name: str) -> None:
        self._database.query(_PUT_BACK, [agent_id, name])

    def deliver(self, agent_id: str, name: str, message: str, received: bool) -> str | None:
        if self._database.query(_DELIVER, [agent_id, name, message, received]):
            return None
        for there, is_apart in self._database.query(_READ, [agent_id, name]):
            if is_apart:
                raise NotMovable(_ON_ITS_WAY)
            return str(there)
        return None

    def remove(self, agent_id: str, where: str, name: str) -> None:
        self._database.query(_REMOVE, [agent_id, name, where == APART])


# In a directory -----------------------------------------------------------------------------------


class _Directory:
    def __init__(self, base_dir: Path) -> None:
        self._agents_dir = base_dir / "agents"
        self._registry = _registry_at(os.fspath(base_dir))

    def registry(self) -> dict[str, Any]:
        return self._registry._load_registry()

    def register(self, agent_id: str, entry: Entry) -> None:
        directory = self._directory(agent_id)
        with self._registry._locked():
            registry = self._registry._load_registry()
            there = registry.get(agent_id)
            if isinstance(there, dict) and _heartbeat(there) >= _heartbeat(entry):
                return
            registry[agent_id] = entry
            directory.mkdir(parents=True, exist_ok=True)
            write_whole(directory / "info.json", json.dumps(entry, indent=2))
            self._registry._save_registry(registry)

    def unregister(self, agent_id: str, entry: Entry) -> bool:
        with self._registry._locked():
            registry = self._registry._load_registry()
            if registry.get(agent_id) != entry:
                return False
            del registry[agent_id]
            self._registry._save_registry(registry)
        return True

    def inboxes(self) -> list[str]:
        try:
            with os.scandir(self._agents_dir) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except FileNotFoundError:
            return []

    def open_inbox(self, agent_id: str) -> None:
        self._place(agent_id, WAITING).mkdir(parents=True, exist_ok=True)

    def names(self, agent_id: str) -> Iterator[tuple[str, str]]:
        # What is received meanwhile is found as such; what is put back, not again.
        for where in (APART, WAITING, RECEIVED):
            try:
                names = sorted(os.listdir(self._place(agent_id, where)))
            except FileNotFoundError:
                continue
            yield from ((where, name) for name in names if name.endswith(".json"))

    def read(self, agent_id: str, where: str, name: str) -> str | None:
        try:
            return read_whole(self._place(agent_id, where) / name)
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise NotMovable(f"it cannot be read: {error}") from None

    def set_apart(self, agent_id: str, name: str) -> str | None:
        apart = self._place(agent_id, APART)
        apart.mkdir(exist_ok=True)
        try:
            (self._place(agent_id, WAITING) / name).rename(apart / name)
        except FileNotFoundError:
            return None
        return self.read(agent_id, APART, name)

    def put_back(self, agent_id: str, name: str) -> None:
        apart = self._place(agent_id, APART) / name
        with contextlib.suppress(FileExistsError):  # sent again since: that is the newer one
            os.link(apart, self._place(agent_id, WAITING) / name)
        apart.unlink()

    def deliver(self, agent_id: str, name: str, message: str, received: bool) -> str | None:
        directory = self._place(agent_id, RECEIVED if received else WAITING)
        directory.mkdir(parents=True, exist_ok=True)
        if self.read(agent_id, APART, name) is not None:
            raise NotMovable(_ON_ITS_WAY)
        there = self.read(agent_id, WAITING, name) or self.read(agent_id, RECEIVED, name)
        if there is None and not write_new(directory / name, message):
            there = self.read(agent_id, WAITING, name)  # somebody has just sent it
        return there

    def remove(self, agent_id: str, where: str, name: str) -> None:
        (self._place(agent_id, where) / name).unlink(missing_ok=True)

    def _directory(self, agent_id: str) -> Path:
        return agent_directory(self._agents_dir, agent_id)

    def _place(self, agent_id: str, where: str) -> Path:
        places = {WAITING: "inbox", APART: "migrating", RECEIVED: "inbox/processed"}
        return self._directory(agent_id) / places[where]

"""Who is there: the agents' registry.

    {base}/registry.json                     {agent_id: what `AgentInfo` says}
    {base}/registry.lock                     flocked by who changes registry.json; never unlinked
    {base}/agents/{agent_id}/info.json       the same as in the registry, for one agent
    {base}/agents/{agent_id}/heartbeat.json  when it last said that it lives

registry.json is read and replaced under the lock, so that nobody's change is lost, and replaced by
a rename, so that readers need no lock and a death at any moment leaves it whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final

from . import layout
from .agent_names import agent_directory
from .errors import LockTimeout
from .waiting import turns
from .whole_file import open_regular, read_whole, sweep, unlock, write_whole

logger = logging.getLogger(__name__)

# An agent whose last heartbeat is older is not discovered any more.
HEARTBEAT_LIFETIME_S: Final = 60.0
# A change takes far less than a millisecond: who waits this long waits for a stopped process.
LOCK_TIMEOUT_S: Final = 10.0


@dataclass
class AgentInfo:
    """What an agent can do, and how it is.

    Parameters
    ----------
    agent_id, agent_type : str
        Who, and of what kind: "frontend", "backend", "testing", "opus-master", ...
    capabilities : list of str
        What others may ask of it.
    status : str
        "idle", "busy" or "offline".
    current_task : str or None
        The task that it is busy with.
    created_at, last_heartbeat : float
        Seconds since the epoch.
    workspace : str
        Its working directory.
    """

    agent_id: str
    agent_type: str
    capabilities: list[str]
    status: str
    current_task: str | None
    created_at: float
    last_heartbeat: float
    workspace: str

    def to_json(self) -> str:
        """As a JSON object; TypeError or ValueError if a field is not JSON-serialisable."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, json_str: str) -> AgentInfo:
        """What `to_json` gave; ValueError if it is no JSON, TypeError if it is no such object."""
        return cls(**json.loads(json_str))


class AgentRegistry:
    """The agents that share a base directory; any number of processes may change it.

    The directory is ``A2A_BASE_DIR`` as it is now; it is made if it is not there.

    Raises
    ------
    OSError
        The directory cannot be made.
    """

    def __init__(self) -> None:
        self._open(layout.default_base_dir())

    def _open(self, place: str) -> None:
        if layout.is_url(place):
            from .postgres.registry import become

            return become(self, place)
        base_dir = Path(os.path.abspath(place))
        self.registry_file = base_dir / "registry.json"
        base_dir.mkdir(parents=True, exist_ok=True)

    def register_agent(self, agent_info: AgentInfo) -> bool:
        """Enter an agent, or what is new about it.

        Parameters
        ----------
        agent_info : AgentInfo
            Every field must be JSON-serialisable, and ``agent_id`` the name of a directory.

        Returns
        -------
        bool
            False, and a log line, if the registry is as it was.
        """
        try:
            agent_id = agent_info.agent_id
            directory = self._agent_directory(agent_id)
            entry, info = asdict(agent_info), agent_info.to_json()
            self.registry_file.parent.mkdir(parents=True, exist_ok=True)
            with self._locked():
                registry = self._load_registry()
                registry[agent_id] = entry
                # Before the registry: who is discovered has a directory.
                directory.mkdir(parents=True, exist_ok=True)
                sweep(directory)
                sweep(self.registry_file.parent)
                write_whole(directory / "info.json", info)
                self._save_registry(registry)
        except Exception as error:
            _log_failure("register agent", getattr(agent_info, "agent_id", None), error)
            return False
        logger.info("Registered agent %s", agent_id, extra={"agent_id": agent_id})
        return True

    def unregister_agent(self, agent_id: str) -> bool:
        """Strike an agent off.

        Returns
        -------
        bool
            True also if it was not there; False, and a log line, if the registry is as it was.
        """
        try:
            if agent_id not in self._load_registry():
                return True
            with self._locked():
                registry = self._load_registry()
                if agent_id not in registry:
                    return True
                del registry[agent_id]
                self._save_registry(registry)
        except Exception as error:
            _log_failure("unregister agent", agent_id, error)
            return False
        logger.info("Unregistered agent %s", agent_id, extra={"agent_id": agent_id})
        return True

    def discover_agents(self, capability_filter: list[str] | None = None) -> list[AgentInfo]:
        """The agents whose last heartbeat is less than 60 seconds old.

        Parameters
        ----------
        capability_filter : list of str, optional
            Only agents that have any of these.

        Returns
        -------
        list of AgentInfo
            An entry that is not an agent's is left out, with a log line; [] and a log line if the
            registry cannot be read.
        """
        try:
            registry = self._load_registry()
        except Exception as error:
            logger.error("Failed to discover agents: %s", error)
            return []
        agents = []
        for agent_id, entry in registry.items():
            try:
                agent = AgentInfo(**entry)
                if _has_any(agent, capability_filter) and _is_alive(agent):
                    agents.append(agent)
            except (TypeError, OverflowError) as error:
                _log_failure("read the registry's entry of agent", agent_id, error)
        return agents

    def update_heartbeat(self, agent_id: str) -> bool:
        """Say that an agent lives.

        Returns
        -------
        bool
            True also if it is not registered, and nothing is done; False, and a log line, if the
            heartbeat could not be entered everywhere.
        """
        try:
            directory = self._agent_directory(agent_id)
            if agent_id not in self._load_registry():
                return True
            with self._locked():
                registry = self._load_registry()
                if agent_id not in registry:
                    return True
                now_s = time.time()
                registry[agent_id]["last_heartbeat"] = now_s
                self._save_registry(registry)
                heartbeat = json.dumps({"last_heartbeat": now_s})
                write_whole(directory / "heartbeat.json", heartbeat)
        except Exception as error:
            _log_failure("update heartbeat of agent", agent_id, error)
            return False
        return True

    def _agent_directory(self, agent_id: str) -> Path:
        return agent_directory(self.registry_file.parent / "agents", agent_id)

    def _load_registry(self) -> dict[str, Any]:
        """The registry as it is; {} if there is none. A2AMonitor calls this, too."""
        try:
            # A registry that somebody has linked to is read; the next change puts a file there.
            text = read_whole(self.registry_file, follow_links=True)
        except FileNotFoundError:
            return {}
        registry = json.loads(text)
        if not isinstance(registry, dict):
            raise ValueError(f"{self.registry_file} holds no JSON object")
        return registry

    def _save_registry(self, registry: dict[str, Any]) -> None:
        """Replace the registry; who wants nobody's change lost does it under `_locked`."""
        write_whole(self.registry_file, json.dumps(registry, indent=2))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        lock_file = self.registry_file.with_suffix(layout.LOCK_SUFFIX)
        for _ in turns(LOCK_TIMEOUT_S):
            with _open_lock(lock_file) as lock:
                try:
                    if _flock_verified(lock, lock_file):
                        yield
                        return
                finally:
                    unlock(lock)
        raise LockTimeout(f"{lock_file} was locked by others for {LOCK_TIMEOUT_S:g} s")


def _open_lock(path: Path) -> IO[bytes]:
    # For reading: flock needs no more, and the file may be another user's.
    flags = os.O_RDONLY | os.O_NOFOLLOW
    try:
        return open_regular(path, flags)
    except FileNotFoundError:
        return open_regular(path, flags | os.O_CREAT)


def _flock_verified(lock: IO[bytes], path: Path) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The whole directory may have been removed and made again between open and flock.
        return os.path.samestat(os.fstat(lock.fileno()), os.lstat(path))
    except (BlockingIOError, FileNotFoundError):
        return False


def _has_any(agent: AgentInfo, capabilities: list[str] | None) -> bool:
    return not capabilities or any(wanted in agent.capabilities for wanted in capabilities)


def _is_alive(agent: AgentInfo) -> bool:
    return time.time() - agent.last_heartbeat < HEARTBEAT_LIFETIME_S


def _log_failure(what: str, agent_id: object, error: Exception) -> None:
    logger.error("Failed to %s %r: %s", what, agent_id, error, extra={"agent_id": agent_id})

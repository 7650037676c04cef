"""The agents' registry, in the pool's database."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, cast

from ..agent_names import agent_directory
from ..errors import InvalidName
from ..registry import AgentInfo, AgentRegistry, _log_failure
from .database import Database

logger = logging.getLogger("fastclaim.registry")

_REGISTER: Final = """
INSERT INTO {schema}.agents (agent_id, info, last_heartbeat) VALUES (%s, %s, %s)
ON CONFLICT (agent_id) DO UPDATE
    SET info = excluded.info, last_heartbeat = excluded.last_heartbeat
RETURNING agent_id
"""
# Its inbox stays, as a directory would.
_UNREGISTER: Final = """
UPDATE {schema}.agents SET info = NULL WHERE agent_id = %s AND info IS NOT NULL RETURNING agent_id
"""
_HEARTBEAT: Final = """
UPDATE {schema}.agents SET last_heartbeat = %s WHERE agent_id = %s AND info IS NOT NULL
RETURNING agent_id
"""
_ALL: Final = """
SELECT agent_id, info, last_heartbeat FROM {schema}.agents WHERE info IS NOT NULL ORDER BY agent_id
"""
_UNREGISTER_OTHERS: Final = """
UPDATE {schema}.agents SET info = NULL WHERE NOT agent_id = ANY(%s) AND info IS NOT NULL
RETURNING agent_id
"""


class PostgresRegistry(AgentRegistry):
    """`AgentRegistry` where ``A2A_BASE_DIR`` is a URL."""

    _database: Database

    def register_agent(self, agent_info: AgentInfo) -> bool:
        try:
            self._enter(agent_info.agent_id, asdict(agent_info))
        except Exception as error:
            _log_failure("register agent", getattr(agent_info, "agent_id", None), error)
            return False
        agent_id = agent_info.agent_id
        logger.info("Registered agent %s", agent_id, extra={"agent_id": agent_id})
        return True

    def unregister_agent(self, agent_id: str) -> bool:
        try:
            gone = self._database.query(_UNREGISTER, [check_agent_id(agent_id)])
        except (InvalidName, TypeError):
            return True  # no such agent can have been there
        except Exception as error:
            _log_failure("unregister agent", agent_id, error)
            return False
        if gone:
            logger.info("Unregistered agent %s", agent_id, extra={"agent_id": agent_id})
        return True

    def update_heartbeat(self, agent_id: str) -> bool:
        try:
            self._database.query(_HEARTBEAT, [time.time(), check_agent_id(agent_id)])
        except Exception as error:
            _log_failure("update heartbeat of agent", agent_id, error)
            return False
        return True

    def _enter(self, agent_id: str, entry: dict[str, Any]) -> None:
        heartbeat = entry.get("last_heartbeat")
        last = float(heartbeat) if isinstance(heartbeat, int | float) else None
        self._database.query(_REGISTER, [check_agent_id(agent_id), json.dumps(entry), last])

    def _load_registry(self) -> dict[str, Any]:
        registry = {}
        for agent_id, info, last_heartbeat in self._database.query(_ALL, {}):
            registry[agent_id] = json.loads(info)
            if last_heartbeat is not None:
                registry[agent_id]["last_heartbeat"] = last_heartbeat
        return registry

    def _save_registry(self, registry: dict[str, Any]) -> None:
        """What A2AMonitor calls: agent by agent, since it has no lock that others know of."""
        for agent_id, entry in registry.items():
            self._enter(agent_id, entry)
        self._database.query(_UNREGISTER_OTHERS, [list(registry)])


def check_agent_id(agent_id: str) -> str:
    """An agent's id, if it could be the name of a directory; raises InvalidName, TypeError."""
    agent_directory(Path(), agent_id)
    return agent_id


def become(registry: AgentRegistry, url: str) -> None:
    """Let a registry that is being constructed be one on PostgreSQL."""
    registry.__class__ = PostgresRegistry
    on_postgres = cast(PostgresRegistry, registry)
    on_postgres._database = Database(url)
    on_postgres._database.make()

"""The original's module, `orchestration.a2a_integration`, name for name.

Same signatures, same returns. `install` puts these in the place of the original's.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from types import ModuleType
from typing import Any, Final

from . import base_dir, layout
from .messaging import A2AMessage, FileBasedMessaging
from .pool import TaskPool
from .registry import AgentInfo, AgentRegistry

__all__ = [
    "A2A_BASE_DIR",
    "A2AClient",
    "A2AMessage",
    "AgentInfo",
    "AgentRegistry",
    "FileBasedMessaging",
    "TaskPool",
    "create_a2a_client",
    "get_a2a_status",
    "install",
]

logger = logging.getLogger(__name__)

# The directory that everything here uses when it is constructed; see `base_dir`.
A2A_BASE_DIR: str
base_dir.share(__name__)


class A2AClient:
    """An agent: its registration, its messages, and the pool from which it takes tasks.

    Parameters
    ----------
    agent_id, agent_type : str
        Who, and of what kind.
    capabilities : list of str
        What it can do.
    workspace : str
        Its working directory.

    Raises
    ------
    InvalidName
        The id cannot be the name of a directory.
    OSError
        The directories cannot be made.
    """

    def __init__(
        self, agent_id: str, agent_type: str, capabilities: list[str], workspace: str
    ) -> None:
        self.agent_id = agent_id
        self.agent_type = agent_type
        self.capabilities = capabilities
        self.workspace = workspace

        self.messaging = FileBasedMessaging(agent_id)
        self.registry = AgentRegistry()
        self.task_pool = TaskPool()

        now_s = time.time()
        self.agent_info = AgentInfo(
            agent_id=agent_id,
            agent_type=agent_type,
            capabilities=capabilities,
            status="idle",
            current_task=None,
            created_at=now_s,
            last_heartbeat=now_s,
            workspace=workspace,
        )
        self.registry.register_agent(self.agent_info)

    def __repr__(self) -> str:
        place = os.fspath(self.task_pool.base_dir)
        return f"<{type(self).__name__} of {self.agent_id!r} at {place!r}>"

    def send_message(self, to_agent: str, message_type: str, payload: dict[str, Any]) -> bool:
        """Send a message; "broadcast" sends it to all other agents.

        Returns
        -------
        bool
            False, and a log line, if nobody got it.
        """
        message = A2AMessage(
            id=str(uuid.uuid4()),
            from_agent=self.agent_id,
            to_agent=to_agent,
            message_type=message_type,
            payload=payload,
            timestamp=time.time(),
        )
        return self.messaging.send_message(message)

    def receive_messages(self) -> list[A2AMessage]:
        """Take all messages that wait; each is given to one receiver only."""
        return self.messaging.receive_messages()

    def discover_agents(self) -> list[AgentInfo]:
        """The agents that gave a sign of life in the last minute, this one included."""
        return self.registry.discover_agents()

    def publish_task(
        self,
        task_description: str,
        requirements: list[str] | None = None,
        constraints: dict[str, Any] | None = None,
    ) -> str | None:
        """Publish a task under a new id.

        Parameters
        ----------
        task_description : str
            The task.
        requirements : list of str, optional
            Capabilities; an agent needs any of them.
        constraints : dict, optional
            See `TaskPool.publish_task`.

        Returns
        -------
        str or None
            The id; None, and a log line, if it could not be published.
        """
        task_id = str(uuid.uuid4())
        if self.task_pool.publish_task(task_id, task_description, requirements, constraints):
            return task_id
        return None

    def claim_task(self, task_id: str, timeout: float = 10.0) -> dict[str, Any]:
        """Claim a task for this agent.

        Parameters
        ----------
        task_id : str
            Which.
        timeout : float
            Seconds to wait for others who are in the middle of claiming it.

        Returns
        -------
        dict
            The task as it is now; {} if it was not claimed.
        """
        return self.task_pool.claim_task(task_id, self.agent_id, timeout)

    def complete_task(self, task_id: str, result: dict[str, Any]) -> bool:
        """Complete a task that this agent has claimed; False if it was not completed."""
        return self.task_pool.complete_task(task_id, self.agent_id, result)

    def get_available_tasks(self) -> list[dict[str, Any]]:
        """The waiting tasks whose requirements this agent meets."""
        return self.task_pool.get_available_tasks(self.capabilities)

    def get_compatible_tasks(self) -> list[dict[str, Any]]:
        """The waiting tasks whose requirements and constraints this agent meets."""
        compatible = []
        for task in self.get_available_tasks():
            if self.can_handle_task(task):
                compatible.append(task)
            else:
                task_id = task.get("task_id")
                logger.info(
                    "Task %s filtered out due to constraint mismatch",
                    task_id,
                    extra={"task_id": task_id, "agent_id": self.agent_id},
                )
        return compatible

    def can_handle_task(self, task_data: dict[str, Any]) -> bool:
        """Whether this agent meets a task's constraints."""
        return self.task_pool.validate_task_constraints(task_data, self.capabilities)

    def update_status(self, status: str, current_task: str | None = None) -> None:
        """Let the others know what this agent is doing; counts as a heartbeat."""
        self.agent_info.status = status
        self.agent_info.current_task = current_task
        self.agent_info.last_heartbeat = time.time()
        self.registry.register_agent(self.agent_info)

    def heartbeat(self) -> None:
        """Say that this agent lives."""
        self.registry.update_heartbeat(self.agent_id)

    def shutdown(self) -> None:
        """Strike this agent off the registry."""
        self.registry.unregister_agent(self.agent_id)


def create_a2a_client(
    agent_id: str, agent_type: str, capabilities: list[str], workspace: str
) -> A2AClient:
    """An `A2AClient`; the same parameters, the same errors."""
    return A2AClient(agent_id, agent_type, capabilities, workspace)


def get_a2a_status() -> dict[str, Any]:
    """Who is there, and what waits, in ``A2A_BASE_DIR`` as it is now.

    Returns
    -------
    dict
        ``agents_online`` and ``available_tasks`` (numbers), ``a2a_directory`` (str), ``agents`` and
        ``tasks`` (lists of dicts).

    Raises
    ------
    OSError
        The directories cannot be made.
    """
    registry = AgentRegistry()
    task_pool = TaskPool()
    agents = registry.discover_agents()
    available_tasks = task_pool.get_available_tasks()
    return {
        "agents_online": len(agents),
        "available_tasks": len(available_tasks),
        "a2a_directory": layout.shown(layout.default_base_dir()),
        "agents": [asdict(agent) for agent in agents],
        "tasks": available_tasks,
    }


# In the original's place --------------------------------------------------------------------------

_ORIGINAL: Final = "orchestration.a2a_integration"
_REPLACED: Final = tuple(name for name in __all__ if name not in ("A2A_BASE_DIR", "install"))


def install() -> bool:
    """Put fastclaim in the place of `orchestration.a2a_integration`, for this process.

    Also in the `orchestration` modules that have imported its names already; objects that they have
    made stay what they are. From then on ``A2A_BASE_DIR`` is one directory for all of them,
    wherever it is assigned, and the environment is not asked again. May be called again, and must
    be after a reload of the original.

    Returns
    -------
    bool
        False if the original is not installed, and nothing was done.
    """
    original = _import_original()
    if original is None:
        return False
    base_dir.follow(original)
    ours_for = {}
    for name in _REPLACED:
        theirs, ours = vars(original).get(name), globals()[name]
        vars(original)[name] = ours
        ours_for[id(theirs)] = (theirs, ours)
    for module_name, module in list(sys.modules.items()):
        if module_name.partition(".")[0] == "orchestration":
            names = getattr(module, "__dict__", {})
            for name, value in list(names.items()):
                theirs, ours = ours_for.get(id(value), (None, None))
                if theirs is not None:
                    names[name] = ours
    return True


def _import_original() -> ModuleType | None:
    try:
        with _host_logging_untouched():
            return importlib.import_module(_ORIGINAL)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{_ORIGINAL}.".startswith(f"{error.name}."):
            return None
        raise


@contextlib.contextmanager
def _host_logging_untouched() -> Iterator[None]:
    """The original calls logging.basicConfig, which does nothing where there is a handler."""
    root = logging.getLogger()
    if root.handlers:
        yield
        return
    placeholder = logging.NullHandler()
    root.addHandler(placeholder)
    try:
        yield
    finally:
        root.removeHandler(placeholder)

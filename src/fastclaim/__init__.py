"""Many agents, one directory of tasks, each task claimed by exactly one agent."""

from .claim import Claim
from .errors import (
    AlreadyClaimed,
    ClaimLost,
    InvalidName,
    InvalidTask,
    LockTimeout,
    NameCollision,
    TaskExists,
    TaskNotAvailable,
    TaskPoolError,
)
from .pool import TaskPool
from .transition import core as _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .a2a import (
        A2AClient,
        A2AMessage,
        AgentInfo,
        AgentRegistry,
        FileBasedMessaging,
        create_a2a_client,
        get_a2a_status,
        install,
    )

core = _core.NAME

# Looked up when first asked for: most processes need none of them, and they take longer to import.
_A2A = (
    "A2AClient",
    "A2AMessage",
    "AgentInfo",
    "AgentRegistry",
    "FileBasedMessaging",
    "create_a2a_client",
    "get_a2a_status",
    "install",
)


def __getattr__(name: str) -> object:
    if name in _A2A or name == "A2A_BASE_DIR":
        from . import a2a

        return getattr(a2a, name)
    if name == "__version__":
        from importlib.metadata import version  # takes longer than all the rest of this import

        return version("fastclaim")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "A2AClient",
    "A2AMessage",
    "AgentInfo",
    "AgentRegistry",
    "AlreadyClaimed",
    "Claim",
    "ClaimLost",
    "FileBasedMessaging",
    "InvalidName",
    "InvalidTask",
    "LockTimeout",
    "NameCollision",
    "TaskExists",
    "TaskNotAvailable",
    "TaskPool",
    "TaskPoolError",
    "core",
    "create_a2a_client",
    "get_a2a_status",
    "install",
]

"""Many agents, one directory of tasks, each task claimed by exactly one agent."""

from .claim import Claim
from .errors import (
    AlreadyClaimed,
    ClaimLost,
    InvalidName,
    InvalidTask,
    KeyHeld,
    LockTimeout,
    NameCollision,
    PoolPaused,
    PoolUnavailable,
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
    from .diagnosis import Finding
    from .literals import Durability, IfExists, Order, PrunableState, State
    from .pausing import Pause
    from .recovery import RecoveryReport

    A2A_BASE_DIR: str
    __version__: str

core = _core.NAME

# Looked up when first asked for: most processes need none of them, and they take longer to import.
_LAZY = {
    "A2A_BASE_DIR": "a2a",
    "A2AClient": "a2a",
    "A2AMessage": "a2a",
    "AgentInfo": "a2a",
    "AgentRegistry": "a2a",
    "Durability": "literals",
    "FileBasedMessaging": "a2a",
    "Finding": "diagnosis",
    "IfExists": "literals",
    "Order": "literals",
    "Pause": "pausing",
    "PrunableState": "literals",
    "RecoveryReport": "recovery",
    "State": "literals",
    "create_a2a_client": "a2a",
    "get_a2a_status": "a2a",
    "install": "a2a",
}


if not TYPE_CHECKING:  # which would take a misspelt name for one of these

    def __getattr__(name: str) -> object:
        if name in _LAZY:
            from importlib import import_module

            return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
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
    "Durability",
    "FileBasedMessaging",
    "Finding",
    "IfExists",
    "InvalidName",
    "InvalidTask",
    "KeyHeld",
    "LockTimeout",
    "NameCollision",
    "Order",
    "Pause",
    "PoolPaused",
    "PoolUnavailable",
    "PrunableState",
    "RecoveryReport",
    "State",
    "TaskExists",
    "TaskNotAvailable",
    "TaskPool",
    "TaskPoolError",
    "core",
    "create_a2a_client",
    "get_a2a_status",
    "install",
]

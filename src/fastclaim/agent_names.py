"""Which agents can have a directory, and where it is."""

from __future__ import annotations

from pathlib import Path

from . import layout
from .errors import InvalidName


def agent_directory(agents_dir: Path, agent_id: str) -> Path:
    """The directory of one agent; it need not be there.

    Raises
    ------
    InvalidName
        The id is not one name inside `agents_dir`: empty, "." or "..", with '/' or NUL, too long,
        or not encodable.
    TypeError
        The id is no string.
    """
    if not isinstance(agent_id, str):
        raise TypeError(f"an agent id is a string, not {type(agent_id).__name__}")
    if agent_id in ("", ".", ".."):
        raise InvalidName(f"agent id {agent_id!r} would be a directory that belongs to no agent")
    return agents_dir / file_name(agent_id, f"agent id {agent_id!r}")


def file_name(name: str, what: str) -> str:
    """`name`, if a file can have it; `what` is how the error calls it.

    Raises
    ------
    InvalidName
        With '/' or NUL, too long, or not encodable.
    """
    try:
        layout.encode_name(name)
    except ValueError as error:
        raise InvalidName(f"{what}: {error}") from None
    return name

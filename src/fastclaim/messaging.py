"""Messages between agents: a file in the receiver's inbox.

    {base}/agents/{agent_id}/inbox/{timestamp}_{from_agent}_{id}.json   waiting
    {base}/agents/{agent_id}/inbox/processed/...                        received
    {base}/agents/{agent_id}/outbox/                                    there, as in the original

A message appears by a rename. The rename into processed/ decides who receives it: of several
processes that receive for one agent, one gets it and the others do not find it any more.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from . import layout
from .agent_names import agent_directory, file_name
from .whole_file import read_whole, sweep, write_whole

logger = logging.getLogger(__name__)

# The receiver that stands for all agents with a directory, save the sender.
BROADCAST: Final = "broadcast"
_INBOX: Final = "inbox"


@dataclass
class A2AMessage:
    """A message from one agent to another.

    Parameters
    ----------
    id : str
        Its own.
    from_agent, to_agent : str
        Whose, and for whom; "broadcast" for all other agents.
    message_type : str
        "discover", "claim", "delegate", "status", "result", ...
    payload : dict
        JSON-serialisable.
    timestamp : float
        Seconds since the epoch.
    reply_to : str or None
        The id of the message that it answers.
    """

    id: str
    from_agent: str
    to_agent: str
    message_type: str
    payload: dict[str, Any]
    timestamp: float
    reply_to: str | None = None

    def to_json(self) -> str:
        """As a JSON object; TypeError or ValueError if a field is not JSON-serialisable."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, json_str: str) -> A2AMessage:
        """What `to_json` gave; ValueError if it is no JSON, TypeError if it is no such object."""
        return cls(**json.loads(json_str))


class FileBasedMessaging:
    """One agent's inbox, and the way to the others'.

    Parameters
    ----------
    agent_id : str
        The agent; its directory, under ``A2A_BASE_DIR`` as it is now, is made if it is not there.

    Raises
    ------
    InvalidName
        The id cannot be the name of a directory.
    OSError
        The directories cannot be made.
    """

    def __init__(self, agent_id: str) -> None:
        self.agent_id = agent_id
        place = layout.default_base_dir()
        if layout.is_url(place):
            from .postgres.messaging import become

            return become(self, place)
        agents_dir = Path(os.path.abspath(place)) / "agents"
        self.agent_dir = agent_directory(agents_dir, agent_id)
        self.inbox_dir = self.agent_dir / _INBOX
        self.outbox_dir = self.agent_dir / "outbox"
        self.inbox_dir.mkdir(parents=True, exist_ok=True)
        self.outbox_dir.mkdir(parents=True, exist_ok=True)

    def send_message(self, message: A2AMessage) -> bool:
        """Put a message into its receiver's inbox, which is made if it is not there.

        Parameters
        ----------
        message : A2AMessage
            Must be JSON-serialisable; its ``timestamp``, ``from_agent`` and ``id`` name a file.

        Returns
        -------
        bool
            Whether it was sent; a broadcast, whether anybody got it. False comes with a log line,
            but for a broadcast when there is nobody else.
        """
        try:
            if message.to_agent == BROADCAST:
                return self._broadcast_message(message)
            return self._send_direct_message(message)
        except Exception as error:
            self._log_failure("send message", error)
            return False

    def _send_direct_message(self, message: A2AMessage) -> bool:
        inbox = agent_directory(self.agent_dir.parent, message.to_agent) / _INBOX
        name = file_name(
            f"{message.timestamp}_{message.from_agent}_{message.id}.json",
            f"message {message.id!r} of {message.from_agent!r}",
        )
        content = message.to_json()
        inbox.mkdir(parents=True, exist_ok=True)
        write_whole(inbox / name, content)
        logger.info(
            "Sent message %s to %s",
            message.id,
            message.to_agent,
            extra={"agent_id": message.from_agent},
        )
        return True

    def _broadcast_message(self, message: A2AMessage) -> bool:
        sent = 0
        for receiver in self._other_agents():
            try:
                sent += self._send_direct_message(replace(message, to_agent=receiver))
            except Exception as error:
                # One broken inbox is no reason for the others to hear nothing.
                self._log_failure(f"send message to {receiver!r}", error)
        logger.info(
            "Broadcast message %s to %d agents",
            message.id,
            sent,
            extra={"agent_id": message.from_agent},
        )
        return sent > 0

    def _other_agents(self) -> list[str]:
        try:
            with os.scandir(self.agent_dir.parent) as entries:
                return [
                    entry.name
                    for entry in entries
                    if entry.is_dir() and entry.name != self.agent_id
                ]
        except FileNotFoundError:
            return []

    def receive_messages(self) -> list[A2AMessage]:
        """Take what is in the inbox; what is taken is moved to ``processed/``.

        Returns
        -------
        list of A2AMessage
            In the order of their file names, which begin with the time. Each message is given to
            one receiver only. What is not a message stays where it is, with a log line.
        """
        try:
            names = sorted(os.listdir(self.inbox_dir))
        except FileNotFoundError:
            return []
        except OSError as error:
            self._log_failure("read the inbox", error)
            return []
        if any(name.endswith(layout.TEMPORARY_SUFFIX) for name in names):
            sweep(self.inbox_dir)
        taken = (self._take(name) for name in names if name.endswith(".json"))
        return [message for message in taken if message is not None]

    def _take(self, name: str) -> A2AMessage | None:
        message_file = self.inbox_dir / name
        processed_dir = self.inbox_dir / "processed"
        try:
            message = A2AMessage.from_json(read_whole(message_file))
            processed_dir.mkdir(exist_ok=True)
            # The rename decides: one receiver gets it, the others ENOENT.
            message_file.rename(processed_dir / name)
        except FileNotFoundError:
            return None
        except Exception as error:
            self._log_failure(f"take message {message_file}", error)
            return None
        return message

    def _log_failure(self, what: str, error: Exception) -> None:
        logger.error("Failed to %s: %s", what, error, extra={"agent_id": self.agent_id})

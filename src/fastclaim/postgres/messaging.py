"""Messages between agents, in the pool's database."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, cast

from ..agent_names import file_name
from ..messaging import A2AMessage, FileBasedMessaging
from ..tokens import new_token
from .database import Database
from .registry import check_agent_id

if TYPE_CHECKING:
    from psycopg import Connection

logger = logging.getLogger("fastclaim.messaging")

_KNOW: Final = """
INSERT INTO {schema}.agents (agent_id) VALUES (%s) ON CONFLICT DO NOTHING RETURNING agent_id
"""
_SEND: Final = """
INSERT INTO {schema}.messages (to_agent, name, message) VALUES (%s, %s, %s)
ON CONFLICT (to_agent, name) DO UPDATE
    SET message = excluded.message, received_at = NULL, receipt = NULL
RETURNING name
"""
_SENT: Final = """
SELECT name FROM {schema}.messages WHERE to_agent = %s AND name = %s AND message = %s
"""
_OTHERS: Final = "SELECT agent_id FROM {schema}.agents WHERE agent_id <> %s ORDER BY agent_id"
_RECEIVE: Final = """
WITH waiting AS MATERIALIZED (
    SELECT to_agent, name FROM {schema}.messages
    WHERE to_agent = %(agent)s AND received_at IS NULL FOR UPDATE SKIP LOCKED
)
UPDATE {schema}.messages m SET received_at = {now}, receipt = %(receipt)s
FROM waiting w WHERE m.to_agent = w.to_agent AND m.name = w.name
RETURNING m.name, m.message
"""
_RECEIVED: Final = """
SELECT name, message FROM {schema}.messages WHERE to_agent = %(agent)s AND receipt = %(receipt)s
"""


class PostgresMessaging(FileBasedMessaging):
    """`FileBasedMessaging` where ``A2A_BASE_DIR`` is a URL."""

    _database: Database

    def _send_direct_message(self, message: A2AMessage) -> bool:
        to_agent = check_agent_id(message.to_agent)
        name = file_name(
            f"{message.timestamp}_{message.from_agent}_{message.id}.json",
            f"message {message.id!r} of {message.from_agent!r}",
        )
        content = message.to_json()
        self._database.query(_KNOW, [to_agent])
        send, sent = self._database.sql(_SEND), self._database.sql(_SENT)
        row = [to_agent, name, content]

        def work(connection: Connection, retried: bool) -> None:
            # The answer to an earlier try was lost: what it sent may have been received by now.
            if not (retried and connection.execute(sent, row).fetchone()):
                connection.execute(send, row)

        self._database.run(work)
        logger.info(
            "Sent message %s to %s",
            message.id,
            message.to_agent,
            extra={"agent_id": message.from_agent},
        )
        return True

    def _other_agents(self) -> list[str]:
        return [row[0] for row in self._database.query(_OTHERS, [self.agent_id])]

    def receive_messages(self) -> list[A2AMessage]:
        parameters = {"agent": self.agent_id, "receipt": new_token()}
        receive, received = self._database.sql(_RECEIVE), self._database.sql(_RECEIVED)

        def work(connection: Connection, retried: bool) -> list[tuple[Any, ...]]:
            # The answer to an earlier try was lost: what it took is nobody else's.
            taken = connection.execute(received, parameters).fetchall() if retried else []
            return taken or connection.execute(receive, parameters).fetchall()

        try:
            rows = self._database.run(work)
        except Exception as error:
            self._log_failure("read the inbox", error)
            return []
        messages = (self._parse(name, text) for name, text in sorted(rows))
        return [message for message in messages if message is not None]

    def _parse(self, name: str, text: str) -> A2AMessage | None:
        try:
            return A2AMessage.from_json(text)
        except (TypeError, ValueError) as error:
            self._log_failure(f"read message {name}", error)
            return None


def become(messaging: FileBasedMessaging, url: str) -> None:
    """Let an inbox that is being constructed be one on PostgreSQL."""
    check_agent_id(messaging.agent_id)
    messaging.__class__ = PostgresMessaging
    on_postgres = cast(PostgresMessaging, messaging)
    on_postgres._database = Database(url)
    on_postgres._database.make()
    on_postgres._database.query(_KNOW, [messaging.agent_id])

"""Where a pool on PostgreSQL is: its URL, and what of it may be shown.

    postgresql://USER:PASSWORD@HOST[:PORT][,HOST..]/DATABASE[?schema=NAME][&what libpq knows..]

Everything that libpq reads works: several hosts, unix sockets, ``PG*`` variables, ``~/.pgpass``.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from .. import layout
from ..errors import TaskPoolError

NAME_MAX_BYTES: Final = 63  # NAMEDATALEN - 1 of PostgreSQL

# Seconds after which a silent peer counts as gone: idle + interval * count.
_DEFAULTS: Final = {
    "application_name": "fastclaim",
    "client_encoding": "utf8",
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "25000",  # ms: also while something that was sent waits for its answer
    # Of several hosts the one that takes writes: after a failover the next reconnect finds it.
    "target_session_attrs": "read-write",
}


class Address(NamedTuple):
    """A pool's place.

    Attributes
    ----------
    conninfo : str
        What libpq connects with; has the password in it.
    schema : str
        The schema that holds the pool's tables.
    shown : str
        The URL without secrets.
    """

    conninfo: str
    schema: str
    shown: str

    def __repr__(self) -> str:
        return f"<Address {self.shown}>"

    def key(self, purpose: str) -> int:
        """The number of an advisory lock of this pool: 63 bits that nobody else has."""
        return lock_number(f"fastclaim {purpose} {self.schema}")

    @property
    def channel(self) -> str:
        """What NOTIFY calls this pool; a schema's name may be too long to be part of it."""
        return f"fastclaim_{self.key('channel'):x}"


def lock_number(text: str) -> int:
    """63 bits of a hash: what PostgreSQL takes for a bigint above zero."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def parse(url: str, synchronous: bool = True) -> Address:
    """Take a pool's URL apart.

    Parameters
    ----------
    url : str
        See the head of this module.
    synchronous : bool
        Whether a commit waits for the server's disk.

    Raises
    ------
    TaskPoolError
        libpq cannot read it, or the schema cannot have that name. The message has no secret.
    """
    bare, _, query = url.partition("?")
    parameters = parse_qsl(query, keep_blank_values=True)
    schema = dict(parameters).get("schema", layout.DEFAULT_SCHEMA)
    others = [(name, value) for name, value in parameters if name != "schema"]
    shown = layout.shown(url)
    if not 0 < len(schema.encode("utf-8", "replace")) <= NAME_MAX_BYTES or {*schema} & {*"\0%"}:
        raise TaskPoolError(
            f"{shown}: schema {schema!r} is no name of 1 to {NAME_MAX_BYTES} bytes without '%'"
        )
    rest = f"?{urlencode(others, quote_via=quote)}" if others else ""
    try:
        if {*bare.partition("://")[2].rpartition("@")[0]} & {*"@/"}:
            raise ValueError  # libpq would take a part of the password for the host's name
        given: dict[str, Any] = conninfo_to_dict(bare + rest)
        if not synchronous:
            given["options"] = f"{given.get('options') or ''} -c synchronous_commit=off"
        conninfo = make_conninfo(**{**_DEFAULTS, **given})
    except (psycopg.Error, ValueError):
        # libpq's own words repeat the part that it cannot read: that may be the password.
        raise TaskPoolError(
            f"{shown}: libpq cannot read this URL; letters like '@', '/', '%' or '#' in a password"
            " must be percent-encoded, and parameters be libpq's, or schema"
        ) from None
    return Address(conninfo, schema, shown)

"""Directories, file names, states, and the rules for ids. Imports nothing of ours.

    {base}/tasks/available/{task_id}.json            waiting
    {base}/tasks/available/{task_id}.lock            there while somebody claims that task
    {base}/tasks/claimed/{task_id}_{agent_id}.json   held by an agent
    {base}/tasks/completed/{task_id}_complete.json   done
    {base}/tasks/failed/{task_id}_failed.json        given up after `max_attempts`: dead letters
    {base}/tasks/owners/{owner}.owner                flocked for as long as that process lives
    {base}/tasks/owners/{token}.lock                 likewise: what claimers link to names of locks
    {base}/tasks/owners/{second}.lease               there until the leases that end then are over
    {base}/tasks/waiting/{kind}-{place}              FIFOs: who waits for tasks listens, or sleeps
    {base}/tasks/keys/{digest}.key                   which claim holds a key
    {base}/tasks/keys/{digest}.agent                 flocked while an agent with `max_claims` claims
    {base}/tasks/paused                              there while nothing may be claimed

Which directory a task's file is in decides its state. The names of the first four are those of
`orchestration.a2a_integration`, so that its processes can share a pool.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

AVAILABLE: Final = "available"
CLAIMED: Final = "claimed"
COMPLETED: Final = "completed"
FAILED: Final = "failed"
STATES: Final = (AVAILABLE, CLAIMED, COMPLETED, FAILED)
PRUNABLE: Final = (AVAILABLE, COMPLETED, FAILED)
OWNERS: Final = "owners"
WAITING: Final = "waiting"
KEYS: Final = "keys"
PAUSED: Final = "paused"

DEFAULT_BASE_DIR: Final = "/tmp/orchestration/a2a"
BASE_DIR_VARIABLE: Final = "A2A_BASE_DIR"
URL_PREFIXES: Final = ("postgresql://", "postgres://")
DEFAULT_SCHEMA: Final = "fastclaim"

TASK_SUFFIX: Final = ".json"
LOCK_SUFFIX: Final = ".lock"
COMPLETED_SUFFIX: Final = "_complete.json"
FAILED_SUFFIX: Final = "_failed.json"
OWNER_SUFFIX: Final = ".owner"
LEASE_SUFFIX: Final = ".lease"
KEY_SUFFIX: Final = ".key"
AGENT_SUFFIX: Final = ".agent"
# Not ".json": glob("*.json") sees dot files too. Not built from ids: those may fill a name.
TEMPORARY_PREFIX: Final = ".fastclaim-"
TEMPORARY_SUFFIX: Final = ".tmp"

NAME_MAX_BYTES: Final = 255  # NAME_MAX of Linux: <limits.h>

_ENCODING: Final = sys.getfilesystemencoding()
_ENCODING_ERRORS: Final = sys.getfilesystemencodeerrors()


_pinned_base_dir: str | None = None


def default_base_dir() -> str:
    """The pool that code which names none means, looked up anew at each call.

    What `pin_base_dir` says comes before the environment.
    """
    if _pinned_base_dir is not None:
        return _pinned_base_dir
    return os.environ.get(BASE_DIR_VARIABLE) or DEFAULT_BASE_DIR


def is_url(base_dir: object) -> bool:
    """Whether a pool's place is no directory but a PostgreSQL URL."""
    return isinstance(base_dir, str) and base_dir.startswith(URL_PREFIXES)


def shown(base_dir: str) -> str:
    """A pool's place as it may be printed: a URL without its password and parameters.

    But for the schema, unless it is the default: it says which of the database's pools is meant.
    """
    if not is_url(base_dir):
        return base_dir
    scheme, _, rest = base_dir.partition("://")
    bare, _, query = rest.partition("?")
    # From the right: an unescaped '@' or '/' in a password must not let a part of it through.
    credentials, at, place = bare.rpartition("@")
    if "@" in query and not at:
        return f"{scheme}://..."  # or was that an unescaped '?' in a password?
    return f"{scheme}://{credentials.partition(':')[0]}{at}{place}{_shown_schema(query)}"


def _shown_schema(query: str) -> str:
    if not query:
        return ""
    from urllib.parse import parse_qsl, quote  # takes long, and few need it

    schema = dict(parse_qsl(query, keep_blank_values=True)).get("schema", DEFAULT_SCHEMA)
    return "" if schema == DEFAULT_SCHEMA else f"?schema={quote(schema, errors='replace')}"


def pin_base_dir(path: str | None) -> None:
    """Let `default_base_dir` be `path`, whatever becomes of the environment; None ends that.

    `base_dir` is who calls this: when somebody assigns ``A2A_BASE_DIR``, and when
    `fastclaim.install` meets modules that took the environment's value when they were imported.
    """
    global _pinned_base_dir
    _pinned_base_dir = path


def encode(name: str) -> bytes:
    """The bytes of a name, as Python's own file functions would encode it: UnicodeEncodeError."""
    return name.encode() if name.isascii() else name.encode(_ENCODING, _ENCODING_ERRORS)


def decode(name: bytes) -> str:
    """The name that these bytes are of, whatever they are."""
    return name.decode(_ENCODING, _ENCODING_ERRORS)


def encode_name(name: str) -> bytes:
    """The bytes of one file name.

    Raises
    ------
    ValueError
        `name` cannot be one name inside its directory; the message says why. Everything that is
        accepted is a plain name, "." and "..", newlines and leading dots before a suffix included.
    """
    try:
        encoded = encode(name)
    except UnicodeEncodeError:
        raise ValueError(f"cannot be encoded as {_ENCODING}") from None
    if "/" in name:
        raise ValueError("contains '/'")
    if "\0" in name:
        raise ValueError("contains NUL")
    if len(encoded) > NAME_MAX_BYTES:
        raise ValueError(f"needs a file name of {len(encoded)} bytes; {NAME_MAX_BYTES} are allowed")
    return encoded

"""What a document's mark says of the caller's fields: who may claim the task, and how soon.

Whoever chooses a task has to know, and need not read and judge all of a document that proves to be
ours: this is written when the document is laid out, from fields that no transition changes.
"""

from __future__ import annotations

import math

from .document import EXCLUSIVE, FOR_ANYBODY, GUARDED, UNCONSTRAINED
from .matching import NUMBER, PRIORITY, Capabilities, epoch_s, published_ns
from .named_tuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final, TypeGuard

_NS: Final = 1_000_000_000
# What is longer is not written: it would take the room that stamps need.
_MOST_S: Final = 10**9 * 4
_MOST: Final = 10**9
_LONGEST: Final = 48  # requirements, together

_PLAIN: Final = frozenset(map(chr, range(ord("!"), 127))) - frozenset('",\\')


class Terms(NamedTuple):
    """What stands in the mark: flags; rank and requirements, with a space before, or nothing."""

    flags: int
    rank: bytes
    requirements: bytes


def terms_of(fields: Mapping[str, Any], mtime_ns: int) -> Terms:
    """The terms of a task whose document is laid out at `mtime_ns`, since the epoch."""
    flags = GUARDED if fields.get(EXCLUSIVE) else 0
    if not (fields.get("constraints") or fields.get("blocked_by")):
        flags |= UNCONSTRAINED
    requirements = fields.get("requirements")
    if not requirements:
        flags |= FOR_ANYBODY
    rank = _rank(fields.get("priority"), fields.get("created_at"), mtime_ns)
    return Terms(flags, rank, _listed(requirements))


def marked_ns(fields: Mapping[str, Any], now_ns: int) -> int:
    """When the pool took a task, as its mark says, since the epoch; now, if it says nothing."""
    taken_ns = published_ns(fields)
    return taken_ns if taken_ns is not None and 0 < taken_ns <= now_ns else now_ns


def encode_capabilities(capabilities: Capabilities) -> bytes:
    """An agent's, in one text, for `document.admits`; empty if it has none."""
    plain = ",".join(name for name in capabilities if _is_plain(name))
    return f",{plain},".encode() if plain else b"," * bool(capabilities)


def _listed(requirements: object) -> bytes:
    if not isinstance(requirements, list | tuple) or not all(map(_is_plain, requirements)):
        return b""
    text = " =" + ",".join(requirements)
    return text.encode() if requirements and len(text) <= _LONGEST + 2 else b""


def _is_plain(name: object) -> TypeGuard[str]:
    """Whether it is a name that can stand among others in a mark."""
    return isinstance(name, str) and name != "" and _PLAIN.issuperset(name)


def _rank(priority: object, created_at: object, mtime_ns: int) -> bytes:
    """Empty where it takes the document to tell."""
    number = priority if isinstance(priority, NUMBER) else 0
    since_s = created_at if isinstance(created_at, NUMBER) else epoch_s(created_at)
    age_ns = 0  # of a task that does not say when it was created: the document's
    if since_s is not None:
        if _is_local(created_at) or not -_MOST_S < since_s < _MOST_S:
            return b""
        second = math.floor(since_s)
        age_ns = mtime_ns - second * _NS - round((since_s - second) * _NS)
    if not -_MOST < number < _MOST:
        return b""
    text = float(number) if isinstance(number, float) else int(number)
    return b" %b %d" % (repr(text).encode(), age_ns)


def _is_local(created_at: object) -> bool:
    """Whether this is a time without an offset, which means what the reader's time zone says."""
    if not isinstance(created_at, str):
        return False
    from datetime import datetime

    return datetime.fromisoformat(created_at).tzinfo is None


def rank_of(mtime_ns: int, rank: bytes, order: str) -> tuple[float, float]:
    """What `matching.rank` says of a task whose mark has this."""
    priority, age_ns = rank.split()
    first = -float(priority) if order == PRIORITY else 0.0
    return first, (mtime_ns - int(age_ns)) / _NS

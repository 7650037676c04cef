"""A task's JSON: the stamp sector, documents of other hands, and what a stamp holds.

A document that we write is one JSON object whose first 512 bytes, the *sector*, hold every field
that a transition changes, padded with spaces; a `result` or `failures` that are too long for it end
the document. The caller's fields follow and are never rewritten:

    {"fastclaim":"1 1432 1763939221123456789 152 5 3 23456 =rust","constraint_enforcement":{...
                  | |    |                   |   | |       requirements
                  | |    |                   |   | rank: priority, ns from created_at to mtime
                  | |    |                   |   flags, a hexadecimal digit: see `terms`
                  | |    |                   length of the head, which transitions keep
                  | |    mtime of the file as we left it, ns
                  | size of the file, bytes
                  version of the layout
    head    ...,"constraint_enforcement":{"enabled":false,"created_at":1763939221.1
    state   ,"claimed_at":...,"claimed_by":"a1"},"status":"claimed","claimed_by":"a1",...
    padding spaces up to ",\\n" at bytes 510 and 511, then the payload: "task_id": "x-1", ... }

Size and mtime prove that nobody has written to the file since: whoever edits it moves its mtime,
and the document is then *unproven* and judged by `json.loads` like any other. Fields that do not
fit make a plain document without a sector: valid, only slower to stamp.
"""

from __future__ import annotations

import functools
import json
import re
from json.decoder import scanstring  # type: ignore[attr-defined]
from json.encoder import c_make_encoder, encode_basestring_ascii  # type: ignore[attr-defined]
from json.scanner import make_scanner

from .named_tuple import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Final

    from .terms import Terms

SECTOR_BYTES: Final = 512
SECTOR_END: Final = b",\n"
DOCUMENT_END: Final = b"}\n"

STATUS: Final = "status"
ENFORCEMENT: Final = "constraint_enforcement"
EXCLUSIVE: Final = "exclusive"
MARK: Final = "fastclaim"
# How often the task was tried in vain, and what became of it; `not_before` is the caller's to set.
ATTEMPTS: Final = "attempts"
FAILURES: Final = "failures"
NOT_BEFORE: Final = "not_before"
RETRY_FIELDS: Final = (ATTEMPTS, NOT_BEFORE, FAILURES)
# In this order in a stamp; the first of them is where a release cuts.
CLAIM_FIELDS: Final = (
    "claimed_by",
    "claimed_at",
    "claim_lock_acquired_at",
    "owner",
    "lease_expires_at",
    "claim_token",
)
FINISH_FIELDS: Final = ("failed_at", "completed_at", "result")
ENFORCEMENT_CLAIM_FIELDS: Final = ("claimed_at", "claimed_by")
STATE_FIELDS: Final = (STATUS, *RETRY_FIELDS, *CLAIM_FIELDS, *FINISH_FIELDS)
_STATE_FIELDS: Final[frozenset[str]] = frozenset(STATE_FIELDS)
# Every top-level field that transitions own; all others are the caller's.
MANAGED_FIELDS: Final = _STATE_FIELDS | {MARK, ENFORCEMENT}
# Those which a waiting task has none of, or has from the pool alone.
NOT_TO_BE_GIVEN: Final = MANAGED_FIELDS - {ENFORCEMENT, NOT_BEFORE}
# What may be of any length, and then stands at the end of the document.
_TAIL_FIELDS: Final = ("result", FAILURES)
# As much as is looked at before all of a document is read.
START_BYTES: Final = 4096

# Stands in a stamp for the time of the transition, which only the core knows. JSON text never
# contains it raw.
TIME: Final = b"\x01"

STATE_AVAILABLE: Final = b',"status":"available"'
STATE_CLAIMED: Final = b',"status":"claimed"'
# JSON strings have their quotes escaped, and `dumps` writes spaces inside of values: in a state
# these are members and nothing else.
CLAIM_FIELDS_START: Final = b',"claimed_by":'
NOT_BEFORE_MEMBER: Final = b',"not_before":'

# Flags of the mark.
ENFORCED: Final = 1  # the head ends inside constraint_enforcement
GUARDED: Final = 2  # a claim has to ask for more: exclusive keys
UNCONSTRAINED: Final = 4  # no `constraints`, no `blocked_by`
FOR_ANYBODY: Final = 8  # no `requirements`

_SECTOR_MARK: Final = (
    rb'\{"fastclaim":"1 ([0-9]{1,18}) ([0-9]{1,19}) ([0-9]{3}) ([0-9a-f])'
    rb'(| [-+.0-9e]{1,24} -?[0-9]{1,19})(| =[!#-\[\]-~]{1,48})"'
)
# The first value in a text and where it ends; StopIteration where none begins.
scan_value: Final[Any] = make_scanner(json.JSONDecoder())  # type: ignore[arg-type]
_JSON_NAMES: Final = {
    list: "an array",
    dict: "an object",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


def _encoder(item_separator: str, key_separator: str) -> Callable[[object], str]:
    """`json.JSONEncoder.encode`, which makes a new encoder in C for each value."""
    whole = json.JSONEncoder(separators=(item_separator, key_separator))
    if c_make_encoder is None:
        return whole.encode
    spare: list[Any] = []

    def encode(value: object) -> str:
        try:
            in_c = spare.pop()
        except IndexError:
            in_c = c_make_encoder(
                {},  # what it is inside of, to find circles with
                whole.default,
                encode_basestring_ascii,
                whole.indent,
                key_separator,
                item_separator,
                whole.sort_keys,
                whole.skipkeys,
                whole.allow_nan,
            )
        text = "".join(in_c(value, 0))
        spare.append(in_c)  # not after an error, inside of which it still is
        return text

    return encode


_encode: Final = _encoder(",", ":")
_encode_spaced: Final = _encoder(", ", ": ")


class Sector(NamedTuple):
    """A sector taken apart: the mark's numbers, the head to keep, the state to replace."""

    size_bytes: int
    mtime_ns: int
    flags: int
    rank: bytes  # this and the next as they stand in the mark, with a space before; may be empty
    requirements: bytes
    head: bytes  # without the mark
    state: bytes  # without the padding


def read_sector(raw: bytes) -> Sector | None:
    """The sector at the start of `raw`, or None if there is none in our layout."""
    mark = re.match(_SECTOR_MARK, raw)  # compiled when first needed: the core in C has its own
    if mark is None or raw[SECTOR_BYTES - 2 : SECTOR_BYTES] != SECTOR_END:
        return None
    head_bytes = int(mark[3])
    if not mark.end() <= head_bytes <= SECTOR_BYTES - 2:
        return None
    state = raw[head_bytes : SECTOR_BYTES - 2].rstrip(b" ")
    head = raw[mark.end() : head_bytes]
    flags = int(mark[4], 16)
    return Sector(int(mark[1]), int(mark[2]), flags, mark[5], mark[6], head, state)


def admits(sector: Sector, capabilities: bytes) -> bool:
    """Whether the mark says that an agent may claim the task, whenever it waits.

    Parameters
    ----------
    capabilities : bytes
        The agent's, from `terms.encode_capabilities`; empty: it names none, and may have any task.
    """
    if not sector.flags & UNCONSTRAINED:
        return False
    if sector.flags & FOR_ANYBODY or not capabilities:
        return True
    return any(b",%b," % name in capabilities for name in sector.requirements[2:].split(b","))


def waiting_state(sector: Sector) -> bytes | None:
    """What its state has after `status`, if the task waits, and may be claimed at any time."""
    waiting = b"}" * (sector.flags & ENFORCED) + STATE_AVAILABLE
    if not sector.state.startswith(waiting) or NOT_BEFORE_MEMBER in sector.state:
        return None
    return sector.state[len(waiting) :]


def write_sector(sector: Sector, size_bytes: int, state: bytes) -> bytes | None:
    """`sector` with another size and state, or None if it does not fit."""
    start = b'{"fastclaim":"1 %d %d ' % (size_bytes, sector.mtime_ns)
    end = b' %x%b%b"%b' % (sector.flags, sector.rank, sector.requirements, sector.head)
    text = b"%b%03d%b%b" % (start, len(start) + 3 + len(end), end, state)
    if len(text) > SECTOR_BYTES - len(SECTOR_END):
        return None
    return text.ljust(SECTOR_BYTES - len(SECTOR_END)) + SECTOR_END


def append_member(sector: Sector, raw: bytes, state: bytes, member: bytes) -> bytes | None:
    """The document `raw` with another state and, at its end, one more member."""
    payload = raw[SECTOR_BYTES : -len(DOCUMENT_END)]
    stamp = write_sector(sector, len(raw) + len(member), state)
    return None if stamp is None else stamp + payload + member + DOCUMENT_END


def timestamp(now_ns: int) -> bytes:
    """Seconds since the epoch to the microsecond, as every stamp writes them."""
    return b"%d.%06d" % divmod(now_ns // 1000, 1_000_000)


def loads(document: bytes) -> dict[str, Any]:
    """A document that was laid out here, as a dict: `json.loads` without the looks around it.

    Raises
    ------
    ValueError
        An integer has more digits than Python's present limit.
    """
    fields: dict[str, Any] = scan_value(document.decode(), 0)[0]
    return fields


def dumps(value: object) -> str:
    """JSON text of a field's value; raises TypeError, ValueError or RecursionError.

    With a space after each comma and colon: nothing inside a value looks like a member of a state.
    """
    return _encode_spaced(value)


def dumps_payload(fields: dict[str, Any]) -> bytes:
    """JSON text of the caller's fields, without the braces around them; raises as `dumps` does."""
    return _encode_spaced(fields)[1:-1].encode()


def _members(fields: dict[str, Any]) -> bytes:
    return "".join(f',"{name}":{dumps(value)}' for name, value in fields.items()).encode()


def lay_out(fields: dict[str, Any], payload: bytes, mtime_ns: int, terms: Terms) -> bytes:
    """One document: the managed `fields` and the caller's, whose text is `payload`.

    Parameters
    ----------
    fields : dict
        Managed fields and their values; `status` must be there.
    payload : bytes
        The caller's fields as JSON text without the braces around them; may be empty.
    mtime_ns : int
        What the writer of the file sets its mtime to, ns.
    terms : Terms
        What the mark says of the caller's fields.
    """
    sector_document = _lay_out_in_sector(fields, payload, mtime_ns, terms)
    if sector_document is not None:
        return sector_document
    plain = {name: value for name, value in fields.items() if name != MARK}
    text = _members(plain)[1:]
    return b"{" + text + (SECTOR_END + payload if payload else b"") + DOCUMENT_END


def _lay_out_in_sector(
    fields: dict[str, Any], payload: bytes, mtime_ns: int, terms: Terms
) -> bytes | None:
    enforcement = fields.get(ENFORCEMENT)
    head, claim, flags = b"", b"", terms.flags
    if enforcement is not None:
        kept, claimed = enforcement, {}
        if not enforcement.keys().isdisjoint(ENFORCEMENT_CLAIM_FIELDS):
            kept = {n: v for n, v in enforcement.items() if n not in ENFORCEMENT_CLAIM_FIELDS}
            claimed = {n: enforcement[n] for n in ENFORCEMENT_CLAIM_FIELDS if n in enforcement}
        if not kept:
            return None  # there is no place to put ",claimed_at" after
        head = f',"{ENFORCEMENT}":{_encode(kept)[:-1]}'.encode()
        claim = _members(claimed) + b"}"
        flags |= ENFORCED
    if not payload:
        return None
    names = _STATE_FIELDS.intersection(fields)
    in_order: Iterable[str] = STATE_FIELDS if len(names) > 1 else names
    state = {name: fields[name] for name in in_order if name in names}
    tail: dict[str, Any] = {}
    for name in ("", *_TAIL_FIELDS):  # first with none of them at the end
        if name in state:
            tail[name] = state.pop(name)
        end = _members(tail) + DOCUMENT_END
        size_bytes = SECTOR_BYTES + len(payload) + len(end)
        sector = Sector(size_bytes, mtime_ns, flags, terms.rank, terms.requirements, head, b"")
        stamp = write_sector(sector, size_bytes, claim + _members(state))
        if stamp is not None:
            return stamp + payload + end
    return None


class Document(NamedTuple):
    """A document as `json.loads` reads it, and the text of the fields that are the caller's."""

    fields: dict[str, Any]
    payload: bytes


def may_be_object(start: bytes) -> bool:
    """Whether a text that starts like this can be a JSON object: a hole of gigabytes cannot."""
    if start.startswith(b"{"):
        return True
    text = start.lstrip(b" \t\n\r")
    return not text or text.startswith(b"{")


def parse(raw: bytes) -> Document:
    """Judge a document, and find the caller's part of its text; raises what `judge` raises."""
    text, fields = judge(raw)
    return Document(fields, _callers_text(text).encode("utf-8"))


def judge(raw: bytes) -> tuple[str, dict[str, Any]]:
    """A document as text and as Python's json reads it.

    Raises
    ------
    ValueError
        Not strictly UTF-8, not JSON, nested too deeply, or no object; the message says which.
    """
    try:
        text = raw.decode("utf-8")
        fields = json.loads(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"not a JSON object but {json_name(fields)}")
    if not isinstance(fields.get(ENFORCEMENT, {}), dict):
        raise ValueError(f"{ENFORCEMENT} is not a JSON object")
    return text, fields


def json_name(value: object) -> str:
    """What JSON calls a value that Python's json has read."""
    return _JSON_NAMES[type(value)]


def parse_held(held: Any) -> Document:
    """`parse` what a core's `Held` holds."""
    if not may_be_object(held.read(START_BYTES)):
        raise ValueError("not a JSON object")
    return parse(held.read())


def _callers_text(text: str) -> str:
    """The members of the object in `text` that no transition owns, to the byte as they stand."""
    find_start, find_value, find_next = _separators()
    position = find_start(text).end()
    kept: list[str] = []
    tail_bytes = 0  # length of what separates the last kept member from the next one
    while text[position] == '"':
        start = position
        name, position = scanstring(text, position + 1)
        _, end = scan_value(text, find_value(text, position).end())
        position = find_next(text, end).end()
        if name not in MANAGED_FIELDS:
            kept.append(text[start:position])
            tail_bytes = position - end
    callers = "".join(kept)
    return callers[: len(callers) - tail_bytes]


@functools.cache
def _separators() -> tuple[Any, ...]:
    """What matches the start of an object, what precedes a value, and what follows it."""
    space = r"[ \t\n\r]*"
    around = (space + "{" + space, rf"{space}:{space}", rf"{space},?{space}")
    return tuple(re.compile(pattern).match for pattern in around)

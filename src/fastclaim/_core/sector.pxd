"""The stamp sector in memory: what it says, and a new one."""

from libc.stdint cimport int64_t
from libc.stdio cimport snprintf
from libc.string cimport memchr, memcmp, memcpy, memset

from . cimport posix
from .mark cimport ENFORCED, MARK_START, Sector, Text, read_mark

cdef enum:
    SECTOR_BYTES = 512
    TEXT_BYTES = 510  # of a sector, before its end

# JSON strings have their quotes escaped, and `document.dumps` writes spaces inside of values: in a
# state these are members and nothing else.
cdef extern from * nogil:
    r"""
    #define FASTCLAIM_STATE_AVAILABLE ",\"status\":\"available\""
    #define FASTCLAIM_STATE_CLAIMED ",\"status\":\"claimed\""
    #define FASTCLAIM_CLAIM_FIELDS_START ",\"claimed_by\":"
    #define FASTCLAIM_TOKEN_MEMBER ",\"claim_token\":\""
    #define FASTCLAIM_NOT_BEFORE_MEMBER ",\"not_before\":"
    """
    const char *STATE_AVAILABLE "FASTCLAIM_STATE_AVAILABLE"
    const char *STATE_CLAIMED "FASTCLAIM_STATE_CLAIMED"
    const char *CLAIM_FIELDS_START "FASTCLAIM_CLAIM_FIELDS_START"
    const char *TOKEN_MEMBER "FASTCLAIM_TOKEN_MEMBER"
    const char *NOT_BEFORE_MEMBER "FASTCLAIM_NOT_BEFORE_MEMBER"

cdef enum:
    STATE_AVAILABLE_BYTES = 21
    STATE_CLAIMED_BYTES = 19
    CLAIM_FIELDS_START_BYTES = 14
    TOKEN_MEMBER_BYTES = 16
    NOT_BEFORE_MEMBER_BYTES = 14


cdef inline bint read_sector(const char *raw, Py_ssize_t count, Sector *sector) noexcept nogil:
    """Whether `raw` starts with a sector in our layout; what it says."""
    if count < SECTOR_BYTES or memcmp(raw + TEXT_BYTES, b",\n", 2) != 0:
        return False
    if (not read_mark(raw, sector)
            or not sector.mark_end <= sector.head_end <= TEXT_BYTES):
        return False
    sector.state_end = TEXT_BYTES
    while (sector.state_end - 8 > sector.head_end
            and memcmp(raw + sector.state_end - 8, b"        ", 8) == 0):
        sector.state_end -= 8
    while sector.state_end > sector.head_end and raw[sector.state_end - 1] == c' ':
        sector.state_end -= 1
    return True


cdef inline int waiting_state(const char *raw, const Sector *sector) noexcept nogil:
    """Where its state goes on after `status`, if the task waits, and may be claimed at any time."""
    cdef int at = sector.head_end
    if sector.flags & ENFORCED:
        if raw[at] != c'}':
            return -1
        at += 1
    if (sector.state_end - at < STATE_AVAILABLE_BYTES
            or memcmp(raw + at, STATE_AVAILABLE, STATE_AVAILABLE_BYTES) != 0):
        return -1
    at += STATE_AVAILABLE_BYTES
    if posix.memmem(raw + at, sector.state_end - at,
                    NOT_BEFORE_MEMBER, NOT_BEFORE_MEMBER_BYTES) != NULL:
        return -1
    return at


cdef inline int append(char *stamp, int at, const char *text, Py_ssize_t size_bytes) noexcept nogil:
    """Where the next text goes, or -1 if this one, or an earlier one, does not fit."""
    if at < 0 or <size_t>size_bytes > <size_t>(TEXT_BYTES - at):
        return -1
    memcpy(stamp + at, text, size_bytes)
    return at + <int>size_bytes


cdef inline int append_timed(char *stamp, int at, Text text, Text now) noexcept nogil:
    """The same, with `now` for each byte TIME (see `document`)."""
    cdef const char *end = text.at + text.size_bytes
    cdef const char *piece = text.at
    cdef const char *time = <const char *>memchr(piece, 1, end - piece)
    while time != NULL:
        at = append(stamp, at, piece, time - piece)
        at = append(stamp, at, now.at, now.size_bytes)
        piece = time + 1
        time = <const char *>memchr(piece, 1, end - piece)
    return append(stamp, at, piece, end - piece)


cdef inline int append_mark(
    char *stamp, const char *raw, const Sector *sector, int64_t size_bytes
) noexcept nogil:
    """A sector's mark and head, for a document of another size."""
    cdef char mark[64]
    cdef int mark_bytes, kept_bytes = sector.head_end - sector.terms_at
    if size_bytes == sector.size_bytes:
        return append(stamp, 0, raw, sector.head_end)
    mark_bytes = snprintf(mark, sizeof(mark), b"%s%lld %llu ", MARK_START,
                          <long long>size_bytes, <unsigned long long>sector.mtime_ns)
    mark_bytes += snprintf(mark + mark_bytes, sizeof(mark) - mark_bytes, b"%03d",
                           mark_bytes + 3 + kept_bytes)
    return append(stamp, append(stamp, 0, mark, mark_bytes), raw + sector.terms_at, kept_bytes)


cdef inline bint pad(char *stamp, int at) noexcept nogil:
    """End the sector; False if something did not fit."""
    if at < 0:
        return False
    memset(stamp + at, c' ', TEXT_BYTES - at)
    memcpy(stamp + TEXT_BYTES, b",\n", 2)
    return True

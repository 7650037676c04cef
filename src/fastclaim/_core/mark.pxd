"""The mark at the start of a sector: size, mtime, length of the head, and the task's terms.

Its layout is drawn at the head of `document`, and `document.read_sector` reads the same.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcmp

from . cimport posix

cdef extern from * nogil:
    r"""
    #define FASTCLAIM_MARK_START "{\"fastclaim\":\"1 "
    """
    const char *MARK_START "FASTCLAIM_MARK_START"

cdef enum:
    MARK_START_BYTES = 16

# Flags of the mark.
cdef enum:
    ENFORCED = 1
    GUARDED = 2
    UNCONSTRAINED = 4
    FOR_ANYBODY = 8


cdef struct Text:
    const char *at
    Py_ssize_t size_bytes


cdef struct Sector:
    int64_t size_bytes
    uint64_t mtime_ns
    int flags
    int terms_at  # where the mark goes on with its flags
    int rank_at  # with the rank,
    int requirements_at  # and with the requirements, each with a space before; may be empty
    int mark_end
    int head_end
    int state_end


cdef inline uint64_t number_in(const char *text, int *at, int longest) noexcept nogil:
    """The digits from `at` on, which then is where they end."""
    cdef uint64_t number = 0
    cdef int end = at[0] + longest
    while at[0] < end and c'0' <= text[at[0]] <= c'9':
        number = number * 10 + <uint64_t>(text[at[0]] - c'0')
        at[0] += 1
    return number


cdef inline bint in_decimal(char character) noexcept nogil:
    return (c'0' <= character <= c'9' or character == c'.' or character == c'-'
            or character == c'+' or character == c'e')


cdef inline int rank_end(const char *text, int at) noexcept nogil:
    """Where a rank, if there is one at `at`, ends; -1 if what is there is none."""
    cdef int start
    if text[at] != c' ' or text[at + 1] == c'=':
        return at
    start = at = at + 1
    while at < start + 24 and in_decimal(text[at]):
        at += 1
    if at == start or text[at] != c' ':
        return -1
    at += 1
    if text[at] == c'-':
        at += 1
    start = at
    number_in(text, &at, 19)
    return at if at > start else -1


cdef inline int requirements_end(const char *text, int at) noexcept nogil:
    """The same of requirements."""
    cdef int start
    if text[at] != c' ':
        return at
    if text[at + 1] != c'=':
        return -1
    start = at = at + 2
    while at < start + 48 and c' ' < text[at] <= c'~' and text[at] != c'"' and text[at] != c'\\':
        at += 1
    return at if at > start else -1


cdef inline int flags_in(char digit) noexcept nogil:
    """A hexadecimal digit's number, or -1."""
    if c'0' <= digit <= c'9':
        return digit - c'0'
    return digit - c'a' + 10 if c'a' <= digit <= c'f' else -1


cdef inline bint read_mark(const char *text, Sector *sector) noexcept nogil:
    """Whether `text` begins with a sector's mark; what it says."""
    cdef int at = MARK_START_BYTES, start = at
    if memcmp(text, MARK_START, MARK_START_BYTES) != 0:
        return False
    sector.size_bytes = <int64_t>number_in(text, &at, 18)
    if at == start or text[at] != c' ':
        return False
    start = at = at + 1
    sector.mtime_ns = number_in(text, &at, 19)
    if at == start or text[at] != c' ':
        return False
    start = at = at + 1
    sector.head_end = <int>number_in(text, &at, 3)
    if at != start + 3 or text[at] != c' ':
        return False
    sector.terms_at = at
    sector.flags = flags_in(text[at + 1])
    if sector.flags < 0:
        return False
    sector.rank_at = at + 2
    sector.requirements_at = at = rank_end(text, at + 2)
    if at >= 0:
        at = requirements_end(text, at)
    if at < 0 or text[at] != c'"':
        return False
    sector.mark_end = at + 1
    return True


cdef inline bint admits(const char *raw, const Sector *sector, Text capabilities) noexcept nogil:
    """Whether the mark says that these are enough: see `document.admits`."""
    cdef char name[52]
    cdef int at = sector.requirements_at + 2, length
    if not sector.flags & UNCONSTRAINED:
        return False
    if sector.flags & FOR_ANYBODY or capabilities.size_bytes == 0:
        return True
    name[0] = c','
    while at < sector.mark_end:  # up to the quote, and with it
        length = 1
        while raw[at] != c',' and at < sector.mark_end - 1:
            name[length] = raw[at]
            length += 1
            at += 1
        name[length] = c','
        if posix.memmem(capabilities.at, capabilities.size_bytes, name, length + 1) != NULL:
            return True
        at += 1
    return False

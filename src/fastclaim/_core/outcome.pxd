"""What one try of a transition came to, and how much of it is synced: see `outcome`."""

cdef enum:
    DONE = 0
    ABSENT = 1
    LOST = 2
    BUSY = 3
    COLLISION = 4
    CHANGED = 5
    NOT_REGULAR = 6
    UNPROVEN = 7
    STALE = 8
    UNJUDGED = 9
    QUIET = 10
    FAILED = -1  # `step.error` and `step.where` say which system call's file failed how

cdef enum:
    SYNC_NONE = 0
    SYNC_DATA = 1
    SYNC_FULL = 2

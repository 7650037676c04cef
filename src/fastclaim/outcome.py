"""What one try of a transition came to. These are values: only what nobody expects is an error.

The numbers are those of the enum in `_core/outcome.pxd`; a test compares the two.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final


DONE: Final = 0
ABSENT: Final = 1  # no such file: never there, or gone before we held it
LOST: Final = 2  # somebody else's rename came first, or a directory has gone
BUSY: Final = 3  # a live process is in the middle of a transition of this task: try again
COLLISION: Final = 4  # the target name is taken
CHANGED: Final = 5  # what was moved is not what was read: give it back, start over
NOT_REGULAR: Final = 6  # a FIFO, directory, symlink, socket or device stands there
UNPROVEN: Final = 7  # not a document of ours as we left it: comes with a Held, to be judged
STALE: Final = 8  # look first: another directory, a pause, or our owner file has gone
UNJUDGED: Final = 9  # not proven to be on the terms that the claim asks for: read it first
QUIET: Final = 10  # ABSENT, and no process has died that could have had it

# How much a transition puts on disk before it returns.
SYNC_NONE: Final = 0
SYNC_DATA: Final = 1
SYNC_FULL: Final = 2

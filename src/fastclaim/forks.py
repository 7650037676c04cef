"""A process with several threads imports, before it forks, all that a verb might still import.

Verbs import most of what they need when they are first called, as `import fastclaim` is to be
quick. A child that is forked while another thread is in the middle of that has the import's lock,
which nobody will ever release, and would wait for it as soon as it needs the module itself.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_OURS: Final = (
    *("_core.posix", "batches", "bell", "candidates", "changes", "checking", "deaths", "diagnosis"),
    *("exclusive", "inotify", "leases", "locked_inode", "matching", "pausing", "pruning"),
    *("publishing", "recovery", "retrying", "selection", "terms", "turnstile", "why"),
)
_OTHERS: Final = (
    *("array", "copy", "datetime", "hashlib", "logging", "pathlib", "random", "urllib.parse"),
    *("encodings.unicode_escape", "graphlib", "weakref"),
)


def import_the_rest() -> None:
    """Import it, unless this is the only thread."""
    threading = sys.modules.get("threading")
    if threading is None or threading.active_count() == 1:
        return
    had_logging = "logging" in sys.modules
    for name in (*(f"{__package__}.{name}" for name in _OURS), *_OTHERS):
        __import__(name)
    if not had_logging:
        # It takes its lock before a fork, too late for this one, and releases it after this one.
        sys.modules["logging"]._lock.acquire()

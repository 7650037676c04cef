"""What inotify(7) can be asked for, and what it tells: who does not ask needs no `inotify`."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

IN_MODIFY: Final = 0x002
IN_CLOSE_WRITE: Final = 0x008
IN_MOVED_FROM: Final = 0x040
IN_MOVED_TO: Final = 0x080
IN_CREATE: Final = 0x100
IN_DELETE: Final = 0x200
IN_DELETE_SELF: Final = 0x400
IN_MOVE_SELF: Final = 0x800
IN_Q_OVERFLOW: Final = 0x4000  # comes with wd -1: events were lost
IN_IGNORED: Final = 0x8000  # the last event of a watch: its directory has gone, or `remove`
IN_ONLYDIR: Final = 0x1000000

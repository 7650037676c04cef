"""Fresh directories to measure in."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from pathlib import Path

from machine import Place


class FreshDirectories:
    """Directories in one place that nothing has ever been in, all removed at the end."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._numbers = itertools.count(1)
        self._parent = tempfile.TemporaryDirectory(prefix="fastclaim-bench-", dir=place.directory)
        # A server that runs as somebody else must get through to its data.
        os.chmod(self._parent.name, 0o711)

    def new(self) -> Path:
        """A path for the next batch; nothing is there yet."""
        return Path(self._parent.name) / f"{next(self._numbers)}"

    def settle(self) -> None:
        """Let the disk finish what preparing a batch has begun."""
        if not self._place.is_memory:
            os.sync()

    def done_with(self, path: Path) -> None:
        """Remove a batch at once, but only in memory.

        ext4 steps over recently deleted inodes, at a price: a batch removed now would slow down
        whoever comes next.
        """
        # Of a peer with a server nothing is there.
        if self._place.is_memory and path.exists():
            shutil.rmtree(path)

    def close(self) -> None:
        """Remove all of them."""
        self._parent.cleanup()

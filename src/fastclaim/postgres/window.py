"""How many of a lane's first tasks a claim looks at: as many as others may be about to take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

# Few sizes, since each is a statement of its own, which the server plans once.
SIZES: Final = (8, 64, 512, 4096)
# After so many claims that found one at once, fewer may do.
_PATIENCE: Final = 200


class Window:
    """The size that worked last; one of `SIZES`.

    Threads share it without a lock: it is a guess, and a lost update makes it no worse.
    """

    def __init__(self) -> None:
        self._index = 0
        self._luck = 0

    def sizes(self, wanted: int) -> Iterator[int]:
        """The sizes to try, one after the other, for so many tasks: at most the last of `SIZES`."""
        for size in SIZES[self._index :]:
            if size >= wanted:
                yield size

    def worked(self, size: int) -> None:
        """Begin with this size the next time."""
        index = SIZES.index(size)
        self._luck = self._luck + 1 if index == self._index else 0
        self._index = index
        if self._luck > _PATIENCE and index > 0:
            self._index, self._luck = index - 1, 0

"""Names that seem to have gone, by looks that wait for nobody.

A tmpfs remembers no name that has gone: a look that is sure of it waits for all who make, move or
remove one in that directory, and they for it, until most of the processes that drain a pool sleep.
`is_there` of the compiled core can look without; now and then that says of a name which is there
that it has gone. So these names are kept, to be looked for once more by a look that is sure.
"""

from __future__ import annotations

import itertools
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    from .directories import Directories

_MOST_NAMES: Final = 100_000
# How long others may be served before these are looked for once more.
_LONGEST_S: Final = 30.0
# So many are looked for one by one. Of more the directory may tell sooner: so many of its names are
# read in the time of one look.
_FEW: Final = 100
_NAMES_A_LOOK: Final = 8


class Doubts:
    """Those of the names in one directory.

    Parameters
    ----------
    pool : Directories
        Whose.
    prefix : str
        The directory's path, with the slash at its end.
    """

    def __init__(self, pool: Directories, prefix: str) -> None:
        self._pool, self._prefix = pool, prefix
        self.names: list[str] = []
        self._settled_at_s = time.monotonic()

    @property
    def are_due(self) -> bool:
        """Whether they, if there are any, should be settled though others can be served."""
        waited_s = time.monotonic() - self._settled_at_s
        return waited_s > _LONGEST_S or len(self.names) >= _MOST_NAMES

    def has_gone(self, name: str) -> bool:
        """Whether it has, surely or not."""
        tasks = self._pool.opened() if len(self.names) < _MOST_NAMES else None
        found = self._pool.core.is_there(self._prefix + name, tasks)
        if found is None:
            self.names.append(name)
        return not found

    def settle(self, listed: Iterator[str]) -> list[str]:
        """Those that are there; from now on there are no doubts.

        Parameters
        ----------
        listed : iterator of str
            The names in the directory, read as they are asked for.
        """
        doubted, self.names = self.names, []
        self._settled_at_s = time.monotonic()
        there = self._found_among(doubted, listed)
        if there:
            self._pool.current()  # looks in a `tasks/` that is here no more say so of all
        return there

    def _found_among(self, doubted: list[str], listed: Iterator[str]) -> list[str]:
        if len(doubted) > _FEW:
            first = itertools.islice(listed, _NAMES_A_LOOK * len(doubted))
            there = list(set(doubted).intersection(first))
            if next(listed, None) is None:
                return there
        return [name for name in doubted if self._pool.core.is_there(self._prefix + name)]

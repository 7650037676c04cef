"""What changes in a directory, told by the kernel: inotify(7), Linux only."""

from __future__ import annotations

import errno
import os
import select
import weakref

from .named_tuple import NamedTuple
from .transition import core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Final, Self

    from .bell import Bell

_READ_BYTES: Final = 16 * 1024  # some 300 events; the next read brings the rest
_LONGEST_POLL_MS: Final = 2**31 - 1


class Event(NamedTuple):
    """What happened to a watched directory, or to a name in it."""

    wd: int  # as `Inotify.add` returned it
    mask: int
    name: bytes  # b"": the directory itself
    cookie: int = 0  # the same for the two events of one rename


class DescriptorLost(OSError):
    """Somebody has closed our descriptor: a daemon closes whatever is open."""

    def __init__(self) -> None:
        super().__init__(errno.EBADF, "the descriptor of an inotify instance was closed")


class Inotify:
    """One inotify instance. A user may have 128 of them, so share one.

    Attributes
    ----------
    descriptor : int
        Its number; -1 once it is closed, or somebody else's.

    Raises
    ------
    OSError
        The system has no inotify (ENOSYS), or no instance is left (EMFILE).
    """

    def __init__(self) -> None:
        self.descriptor = -1  # first: `__del__` also comes after a failure here
        try:
            self.descriptor = core.inotify_init()
        except OSError as error:
            if error.errno == errno.ENOSYS:
                error.strerror = "this system has no inotify"
            raise
        self._opened = os.fstat(self.descriptor)
        before = _by_number.get(self.descriptor)
        if before is not None:
            # To the kernel all instances are one file: it could take ours for its own.
            before.descriptor = -1
        _by_number[self.descriptor] = self

    def fileno(self) -> int:
        """The descriptor, for a selector or an event loop: readable if there are events."""
        return self.descriptor

    def add(self, path: str | bytes, mask: int) -> int:
        """Watch a directory, or change the mask of a watch; returns its `wd`.

        Raises
        ------
        OSError
            It is not there, must not be read, or the user has no watch left (ENOSPC).
        """
        name = bytes(os.fsencode(path))  # of a subclass it keeps the type
        watch: int = core.inotify_add_watch(self.descriptor, name, mask)
        return watch

    def read(self) -> list[Event]:
        """The oldest events that wait, as many as one read brings; none: []. Never blocks.

        Raises
        ------
        DescriptorLost
            Another instance is needed to hear of anything.
        """
        return [Event._make(fields) for fields in self.read_fields()]

    def read_fields(self) -> list[tuple[int, int, bytes, int]]:
        """The same as plain tuples, which take half the time to make."""
        # Asked first: the exception of a read() in vain takes longer than the call.
        if not self.has_events():
            return []
        if not os.path.samestat(os.fstat(self.descriptor), self._opened):
            raise DescriptorLost  # what waits is for who has its number now
        return core.events_in(os.read(self.descriptor, _READ_BYTES))

    def has_events(self) -> bool:
        """Whether there is something to read.

        Raises
        ------
        DescriptorLost
            As for `read`.
        """
        waiting_bytes: int = core.waiting_bytes(self.descriptor)
        if waiting_bytes < 0:
            raise DescriptorLost
        return waiting_bytes > 0

    def wait(self, timeout_s: float | None = None, bell: Bell | None = None) -> bool:
        """Block until there are events to read, with the GIL released; Ctrl-C ends it at once.

        Parameters
        ----------
        timeout_s : float or None
            Seconds; None waits as long as it takes.
        bell : Bell, optional
            Ends the wait too, when it becomes readable.

        Returns
        -------
        bool
            False if the time is over.
        """
        if self.descriptor < 0:
            return True  # a read says why
        # Not kept: two threads must not poll one poll object at a time.
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        if bell is not None:
            poll.register(bell, select.POLLIN)
        if timeout_s is None:
            return bool(poll.poll())
        return bool(poll.poll(min(max(timeout_s, 0.0) * 1000, _LONGEST_POLL_MS)))

    def close(self) -> None:
        """Give the instance back; again does nothing."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor < 0:
            return
        try:
            # The number may be another file's by now, and an event loop's epoll has our inode.
            is_ours = os.path.samestat(os.fstat(descriptor), self._opened)
            if is_ours and core.waiting_bytes(descriptor) >= 0:
                os.close(descriptor)
        except OSError:
            pass  # it is closed all the same

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


_by_number: weakref.WeakValueDictionary[int, Inotify] = weakref.WeakValueDictionary()

"""The lock file, which keeps originals out: a link to our locked inode, or a file of its own."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from ..descriptors import try_flock
from ..outcome import BUSY, DONE, LOST
from . import posix
from .step import VERIFY_TRIES, Step, find, is_named, let_go, name_of, remove


def link_lock(step: Step) -> bool:
    """Let our locked inode be the lock file, if there is one and no lock file yet."""
    if step.ready is None or step.ready.descriptor < 0:
        return False
    assert step.lock_path is not None
    assert step.tasks is not None
    names = step.ready.name, name_of(step, step.lock_path)
    step.may_be_linked = True
    try:
        os.link(*names, src_dir_fd=step.at, dst_dir_fd=step.at, follow_symlinks=False)
    except OSError as error:
        step.may_be_linked = False
        if error.errno != errno.EEXIST:
            step.tasks.replace_locked_inode(step.ready, is_of_use=False)
        return False
    return True


def release_link(step: Step) -> None:
    """Unlink it; left to others, with its flock, if that fails or an original has opened it."""
    assert step.lock_path is not None
    assert step.ready is not None
    assert step.tasks is not None
    is_left = True
    with contextlib.suppress(OSError):
        named = find(step, step.lock_path)
        is_ours = named is not None and named.st_ino == step.ready.number
        if named is not None and is_ours and named.st_dev == step.ready.device:
            remove(step, step.lock_path)
        is_left = os.fstat(step.ready.descriptor).st_size == 0
    step.may_be_linked = False
    if is_left:
        step.tasks.replace_locked_inode(step.ready, is_of_use=True)
        step.ready = None  # whoever waits, waits until nobody uses it any more


def take_lock(step: Step) -> int:
    """DONE, LOST (no directory for it) or BUSY."""
    assert step.lock_path is not None
    if link_lock(step):
        return DONE
    name = name_of(step, step.lock_path)
    for _ in range(VERIFY_TRIES):
        try:
            # No O_TRUNC: a loser must not touch the holder's file.
            step.open["lock"], _ = posix.open_for_flock(step.at, name, os.O_CREAT)
        except FileNotFoundError:
            return LOST
        taken = try_flock(step.open["lock"])
        opened = os.fstat(step.open["lock"])
        if not stat.S_ISREG(opened.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", step.lock_path)
        # Who had it may have unlinked it between our open and our flock.
        if taken and is_named(step, step.lock_path, opened):
            return DONE
        let_go(step, "lock")
        if not taken:
            return BUSY
    return BUSY


def release_lock(step: Step) -> None:
    """Unlink it while we hold it, and only if the path still is what we hold."""
    if step.may_be_linked:
        release_link(step)
    if "lock" not in step.open:
        return
    assert step.lock_path is not None
    with contextlib.suppress(OSError):
        opened = os.fstat(step.open["lock"])
        # Asked again: an error or an interrupt may have come before we knew.
        if (
            stat.S_ISREG(opened.st_mode)
            and try_flock(step.open["lock"])
            and is_named(step, step.lock_path, opened)
        ):
            remove(step, step.lock_path)
    let_go(step, "lock")

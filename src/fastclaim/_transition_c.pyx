"""Hold, move, stamp, with the GIL released from the first open to the last close.

The protocol is written at the head of `_transition_py`, which does the same. Here is what Python
sees; the steps are in `_core`, each in a file that is named after it, and what does the same as in
Python has the same name; they are compiled into this one extension. Functions there return an
outcome; FAILED means that `step.error` and `step.where` say which system call's file failed how,
and that everything was put back.
"""

import os

from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_AsStringAndSize,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from ._core cimport posix
from ._core.claim cimport SMALL_BYTES, Content, Demand, claim_held, claim_prepared
from ._core.finish cimport Ending, finish_held, finish_prepared
from ._core.hold cimport close_all, hold_task
from ._core.look cimport look_for, peek_at, read_file
from ._core.mark cimport Sector, Text
from ._core.move cimport move
from ._core.names cimport is_plain, plain_path
from ._core.outcome cimport (
    ABSENT,
    BUSY,
    CHANGED,
    COLLISION,
    DONE,
    FAILED,
    LOST,
    NOT_REGULAR,
    QUIET,
    STALE,
    UNJUDGED,
    UNPROVEN,
)
from ._core.publish cimport publish_prepared
from ._core.replace cimport prepare
from ._core.sector cimport SECTOR_BYTES
from ._core.step cimport Destination, Step, fail, start

cdef extern from "Python.h":
    bytes PyUnicode_EncodeFSDefault(object text)
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size_bytes) except NULL

cdef extern from "string.h":
    size_t strnlen(const char *text, size_t most)

NAME = "c"

OUTCOMES = {
    "DONE": DONE, "ABSENT": ABSENT, "LOST": LOST, "BUSY": BUSY, "COLLISION": COLLISION,
    "CHANGED": CHANGED, "NOT_REGULAR": NOT_REGULAR, "UNPROVEN": UNPROVEN,
    "STALE": STALE, "UNJUDGED": UNJUDGED, "QUIET": QUIET,
}


cdef inline Text text_of(bytes content) noexcept:
    cdef Text text
    text.at = PyBytes_AS_STRING(content) if content is not None else NULL
    text.size_bytes = PyBytes_GET_SIZE(content) if content is not None else 0
    return text


cdef inline const char *path_of(bytes path) noexcept:
    return PyBytes_AS_STRING(path) if path is not None else NULL


cdef inline int set_destination(
    Destination *to, bytes path, tuple directories, int sync, bint replace
) except -1:
    cdef bytes first, second
    first, second = directories
    if first is None or second is None:
        raise TypeError(f"two directories are synced, not {directories!r}")
    to.path, to.sync, to.replace = path_of(path), sync, replace
    to.first, to.second = path_of(first), path_of(second)
    return 0


cdef object start_in(Step *step, object tasks, bytes path, bytes lock):
    """Begin a transition of a file in `tasks`, a TasksDirectory; returns its LockedInode or None."""
    start(step, tasks.descriptor, tasks.prefix_bytes, path_of(path), path_of(lock))
    step.tasks = path_of(tasks.path)
    return None if lock is None else ready_lock(step, tasks)


cdef object ready_lock(Step *step, object tasks):
    """Have its LockedInode at hand, which is returned, or None."""
    cdef object locked = tasks.locked_inode
    if locked is not None:
        step.ready.inode = locked.descriptor
        step.ready.device, step.ready.number = locked.device, locked.number
        step.ready.name = path_of(locked.name)
    return locked


cdef int see_to_locked_inode(Step *step, object tasks, object locked) except -1:
    """Replace it if it must not, or cannot, be linked again."""
    if step.ready.is_left or step.ready.is_useless:
        tasks.replace_locked_inode(locked, step.ready.is_left)
        step.ready.is_left = step.ready.is_useless = False
    return 0


cdef int raise_failure(const Step *step) except -1:
    raise OSError(step.error, os.strerror(step.error), os.fsdecode(step.where))


cdef inline int checked(const Step *step, int outcome) except FAILED:
    return raise_failure(step) if outcome == FAILED else outcome


cdef class Held:
    """A task whose inode we hold. Close it whatever comes, or use it as a context manager."""

    cdef Step step
    cdef readonly bytes path
    cdef bytes lock
    cdef bytes temporary
    cdef object tasks  # keeps the descriptor that names are looked up from open
    cdef object locked

    def __cinit__(self):
        start(&self.step, posix.AT_FDCWD, 0, NULL, NULL)

    def __dealloc__(self):
        close_all(&self.step)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    cdef int check(self) except -1:
        """Only what `hold` and the transitions return holds a file."""
        if self.step.path == NULL:
            raise ValueError("this holds nothing")
        return 0

    def close(self):
        """Give up a temporary file that is left, the lock file, and the hold; never fails."""
        with nogil:
            close_all(&self.step)
        see_to_locked_inode(&self.step, self.tasks, self.locked)
        self.step.ready.inode = -1
        self.locked = None  # whoever waits for it, waits until nobody uses it any more

    def read(self, at_most_bytes=None):
        """The document, or its start, as long as it was when we got hold of it."""
        self.check()
        cdef Py_ssize_t count, size_bytes = self.step.task_status.st_size
        if at_most_bytes is not None:
            size_bytes = min(size_bytes, <Py_ssize_t>at_most_bytes)
        cdef bytes content = PyBytes_FromStringAndSize(NULL, size_bytes)
        cdef char *text = PyBytes_AS_STRING(content)
        with nogil:
            count = posix.read_all(self.step.task, text, size_bytes)
            if count < 0:
                fail(&self.step, self.step.path)
        if count < 0:
            raise_failure(&self.step)
        return content[:count]

    def move(self, bytes target not None, bint replace=False):
        """Rename the task to `target`: see `_transition_py`."""
        cdef const char *target_path = path_of(target)
        cdef int outcome
        self.check()
        with nogil:
            outcome = move(&self.step, target_path, replace)
        return checked(&self.step, outcome)

    def prepare(self, bytes temporary not None, bytes content not None, int64_t mtime_ns, int sync):
        """Write what is to replace this document into a temporary file, flocked and synced."""
        cdef Text text = text_of(content)
        cdef const char *temporary_path = path_of(temporary)
        cdef int outcome
        self.check()
        self.temporary = temporary
        with nogil:
            outcome = prepare(&self.step, temporary_path, text, mtime_ns, sync)
        checked(&self.step, outcome)

    def claim(self, bytes claimed not None, tuple directories not None, int sync,
              bint replace=False):
        """Move the task to `claimed`, then replace it by what was prepared."""
        cdef Destination to
        cdef int outcome
        self.check()
        set_destination(&to, claimed, directories, sync, replace)
        with nogil:
            outcome = claim_prepared(&self.step, &to)
        return checked(&self.step, outcome)

    def finish(self, bytes target not None, tuple directories not None, int sync, bint replace):
        """Replace the task by what was prepared, then move it to `target`."""
        cdef Destination to
        cdef int outcome
        self.check()
        set_destination(&to, target, directories, sync, replace)
        with nogil:
            outcome = finish_prepared(&self.step, &to)
        return checked(&self.step, outcome)

    def fileno(self):
        """The descriptor of what was prepared."""
        return self.step.replacement

    def publish(self, tuple directories not None, int sync, bint replace):
        """Let what `prepare_new` has prepared be the task: see `_transition_py`."""
        cdef Destination to
        cdef int outcome
        self.check()
        set_destination(&to, self.path, directories, sync, replace)
        with nogil:
            outcome = publish_prepared(&self.step, &to)
        return checked(&self.step, outcome)


cdef Held keep_held(const Step *step, object tasks, object locked, bytes path, bytes lock):
    """What a transition holds, handed over to Python with the paths that it points into."""
    cdef Held held = Held.__new__(Held)
    held.step = step[0]
    held.tasks, held.locked, held.path, held.lock = tasks, locked, path, lock
    return held


def hold(object tasks not None, bytes path not None, bytes lock):
    """Hold the file at `path`, verified; with `lock`, take that lock file too."""
    cdef Step step
    cdef int outcome
    cdef object locked = start_in(&step, tasks, path, lock)
    cdef Held held = None
    with nogil:
        outcome = hold_task(&step)
    if outcome == DONE:
        held = keep_held(&step, tasks, locked, path, lock)
    see_to_locked_inode(&step, tasks, locked)  # runs Python: an interrupt may come
    return checked(&step, outcome), held


cdef bint is_quiet(object pool, object tasks):
    """See `Directories.is_quiet`; `tasks` is what it has open."""
    cdef object deaths = pool.listening, inotify, status = tasks.status
    if deaths is None or status is None:
        return False
    inotify = deaths.inotify
    if inotify is None or deaths.quiet_in is not status:
        return False
    return posix.waiting_bytes(inotify.descriptor) == 0


cdef class Place:
    """What stays the same for all claims through a `Directories` in one `tasks`.

    Kept with the first: to look so many attributes up took a tenth of a claim's instructions.
    """

    cdef object tasks
    cdef bytes tasks_path, available, claimed
    cdef tuple directories
    cdef bint lock_files
    cdef int sync, at
    cdef Py_ssize_t prefix_bytes


cdef Place place_of(object pool, object tasks):
    cdef Place place = pool.place
    if place is None or place.tasks is not tasks:
        place = Place.__new__(Place)
        place.tasks, place.tasks_path = tasks, tasks.path
        place.at, place.prefix_bytes = tasks.descriptor, tasks.prefix_bytes
        place.available, place.claimed = pool.available, pool.claimed
        place.directories = pool.claim_directories
        place.lock_files, place.sync = pool.lock_files, pool.stamp_sync
        pool.place = place
    return place


def claim(object pool not None, object tasks not None, object task_id, object agent_id,
          bytes enforcement not None, bytes fields not None, str token not None,
          bint heed_pause, int owner, bint want_document, bytes capabilities=None):
    """One try to claim a task: see `_transition_py.claim`."""
    cdef Step step
    cdef Destination to
    cdef Demand demand
    cdef Content content
    cdef int outcome
    cdef object found = None
    cdef object locked
    cdef int64_t known_ns = tasks.unpaused_mtime_ns, unpaused_mtime_ns = known_ns
    cdef Place place = place_of(pool, tasks)
    cdef bytes path = None, claimed = None, lock = None
    if is_plain(task_id) and is_plain(agent_id):
        claimed = plain_path(place.claimed, task_id, agent_id, b".json")
        if claimed is not None:
            path = plain_path(place.available, task_id, None, b".json")
            if place.lock_files:
                lock = plain_path(place.available, task_id, None, b".lock")
    if claimed is None:
        path, claimed = pool.claim_files(task_id, agent_id)
        lock = pool.lock_file(path)
    start(&step, place.at, place.prefix_bytes, path_of(path), path_of(lock))
    step.tasks = path_of(place.tasks_path)
    locked = None if lock is None else ready_lock(&step, tasks)
    set_destination(&to, claimed, place.directories, place.sync, False)
    demand.enforcement, demand.fields = text_of(enforcement), text_of(fields)
    demand.token.at = PyUnicode_AsUTF8AndSize(token, &demand.token.size_bytes)
    demand.capabilities = text_of(capabilities)
    content.whole, content.raw, content.count = want_document, content.small, 0
    with nogil:
        outcome = claim_held(&step, heed_pause, &unpaused_mtime_ns, owner, &to, &demand, &content)
    try:
        if outcome == UNPROVEN:
            found = keep_held(&step, tasks, locked, path, lock)
        see_to_locked_inode(&step, tasks, locked)  # runs Python: an interrupt may come
        if unpaused_mtime_ns != known_ns:
            tasks.unpaused_mtime_ns = unpaused_mtime_ns
        if checked(&step, outcome) == DONE and want_document:
            found = PyBytes_FromStringAndSize(content.raw, content.count)
        elif outcome == ABSENT and capabilities is None and is_quiet(pool, tasks):
            outcome = QUIET
    finally:
        if content.raw != content.small:
            free(content.raw)
    return outcome, found


def finish(object tasks not None, bytes path not None, bytes lock, bytes target not None,
           tuple directories not None, bytes expected not None, bytes status not None,
           bytes fields, bytes result not None, bytes temporary not None, int sync, bint replace):
    """One try to complete or release the claim at `path`: see `_transition_py.finish`."""
    cdef Step step
    cdef Destination to
    cdef Ending ending
    cdef int outcome
    cdef Held held = None
    cdef object locked = start_in(&step, tasks, path, lock)
    set_destination(&to, target, directories, sync, replace)
    ending.expected, ending.status = text_of(expected), text_of(status)
    ending.fields, ending.result = text_of(fields), text_of(result)
    ending.temporary = path_of(temporary)
    with nogil:
        outcome = hold_task(&step)
        if outcome == DONE:
            outcome = finish_held(&step, &ending, &to)
            if outcome != UNPROVEN:
                close_all(&step)
    if outcome == UNPROVEN:
        held = keep_held(&step, tasks, locked, path, lock)
    see_to_locked_inode(&step, tasks, locked)  # runs Python: an interrupt may come
    return checked(&step, outcome), held


def publish(bytes temporary not None, bytes target not None, tuple directories not None,
            bytes content not None, int64_t mtime_ns, int sync):
    """Make `content` the task at `target`: see `_transition_py.publish`."""
    cdef Step step
    cdef Destination to
    cdef Text text = text_of(content)
    cdef const char *temporary_path = path_of(temporary)
    cdef int outcome
    set_destination(&to, target, directories, sync, True)
    # By whole paths: a descriptor could be that of a directory that is no longer the pool's.
    start(&step, posix.AT_FDCWD, 0, to.path, NULL)
    with nogil:
        outcome = prepare(&step, temporary_path, text, mtime_ns, sync)
        if outcome == DONE:
            outcome = publish_prepared(&step, &to)
        elif step.error == posix.ENOENT:
            outcome = LOST
        close_all(&step)
    return checked(&step, outcome)


def prepare_new(bytes temporary not None, bytes target not None, bytes content not None,
                int64_t mtime_ns, int sync):
    """Write a task into a temporary file: see `_transition_py.prepare_new`."""
    cdef Held new = Held.__new__(Held)
    cdef Text text = text_of(content)
    cdef const char *temporary_path = path_of(temporary)
    cdef int outcome
    new.path, new.temporary = target, temporary
    start(&new.step, posix.AT_FDCWD, 0, path_of(target), NULL)
    with nogil:
        outcome = prepare(&new.step, temporary_path, text, mtime_ns, sync)
    if outcome == DONE:
        return DONE, new
    if new.step.error == posix.ENOENT:
        return LOST, None
    raise_failure(&new.step)


def read(path not None, Py_ssize_t at_most_bytes, tasks=None):
    """The start of the file at `path`: see `_transition_py.read`."""
    cdef Step step
    cdef char small[SMALL_BYTES]
    cdef char *text = small
    cdef bytes encoded = PyUnicode_EncodeFSDefault(path) if isinstance(path, str) else path
    cdef bytes content = None
    cdef char *name
    cdef Py_ssize_t count = at_most_bytes
    cdef int error
    PyBytes_AsStringAndSize(encoded, &name, NULL)  # refuses NUL
    if tasks is None:
        start(&step, posix.AT_FDCWD, 0, name, NULL)
    else:
        start(&step, tasks.descriptor, tasks.prefix_bytes, name, NULL)
    if at_most_bytes > SMALL_BYTES:
        content = PyBytes_FromStringAndSize(NULL, at_most_bytes)
        text = PyBytes_AS_STRING(content)
    with nogil:
        error = read_file(&step, text, &count)
    if error == 0:
        return PyBytes_FromStringAndSize(text, count) if content is None else content[:count]
    if (error == posix.ELOOP or error == posix.ENXIO or error == posix.EISDIR
            or error == posix.ESPIPE):
        return None
    raise OSError(error, os.strerror(error), os.fsdecode(path))


def is_there(str path not None, object tasks=None):
    """Whether something has that name: see `_transition_py.is_there`."""
    cdef Step step
    cdef bytes encoded = PyUnicode_EncodeFSDefault(path)
    cdef const char *name = path_of(encoded)
    cdef int error
    if tasks is None:
        start(&step, posix.AT_FDCWD, 0, name, NULL)
    else:
        start(&step, tasks.descriptor, tasks.prefix_bytes, name, NULL)
    with nogil:
        error = look_for(&step)
    return None if error == posix.EAGAIN else error != posix.ENOENT


def inotify_init():
    """A new inotify instance: see `_transition_py.inotify_init`."""
    cdef int descriptor, error
    with nogil:
        descriptor = posix.inotify_init()
        error = errno
    if descriptor < 0:
        raise OSError(error, os.strerror(error))
    return descriptor


def inotify_add_watch(int descriptor, bytes path not None, uint32_t mask):
    """Watch a directory: see `_transition_py.inotify_add_watch`."""
    cdef char *name
    cdef int watch, error
    PyBytes_AsStringAndSize(path, &name, NULL)  # refuses NUL
    with nogil:
        watch = posix.inotify_add_watch(descriptor, name, mask)
        error = errno
    if watch < 0:
        raise OSError(error, os.strerror(error), os.fsdecode(path))
    return watch


def waiting_bytes(int descriptor):
    """How much can be read: see `_transition_py.waiting_bytes`."""
    return posix.waiting_bytes(descriptor)


def events_in(bytes raw not None):
    """What was read from an inotify instance: see `_transition_py.events_in`."""
    cdef const char *at = PyBytes_AS_STRING(raw)
    cdef const char *end = at + PyBytes_GET_SIZE(raw)
    cdef posix.inotify_event event
    cdef list events = []
    cdef bytes name
    while at < end:
        if end - at < <Py_ssize_t>sizeof(event):
            raise ValueError("an inotify event is cut off")
        memcpy(&event, at, sizeof(event))
        at += sizeof(event)
        if <size_t>(end - at) < event.len:
            raise ValueError("an inotify event is cut off")
        name = PyBytes_FromStringAndSize(at, strnlen(at, event.len))  # padded
        events.append((event.wd, event.mask, name, event.cookie))
        at += event.len
    return events


def peek(str path not None, bytes capabilities not None, object tasks not None):
    """The rank of a task that proves to wait: see `_transition_py.peek`."""
    cdef Step step
    cdef Sector sector
    cdef char raw[SECTOR_BYTES]
    cdef Text capabilities_text = text_of(capabilities)
    cdef bytes encoded = PyUnicode_EncodeFSDefault(path)
    cdef bint found
    start(&step, tasks.descriptor, tasks.prefix_bytes, path_of(encoded), NULL)
    with nogil:
        found = peek_at(&step, capabilities_text, raw, &sector)
    if not found:
        return None
    return <int64_t>sector.mtime_ns, raw[sector.rank_at:sector.requirements_at]

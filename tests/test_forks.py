"""A process may fork at any moment: what its other threads do just then does its child no harm."""

from __future__ import annotations

import os
import signal

from fastclaim import TaskPool
from fastclaim.uniqueness import PublishLock


def test_a_child_that_was_forked_in_the_middle_of_a_publication_keeps_no_flock(
    pool: TaskPool,
) -> None:
    reading, writing = os.pipe()
    killed = os.fork()
    if killed == 0:
        with PublishLock(pool._directories):
            if os.fork() == 0:
                os.close(writing)
                os.read(reading, 1)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(killed, 0)
    try:
        assert pool.publish("x")
    finally:
        os.close(reading)
        os.close(writing)

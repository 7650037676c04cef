"""On free-threaded Python the GIL stays off, and threads that truly run side by side do no harm."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import threading

import pytest

from fastclaim import TaskPool

from .conftest import _transition_c

TASKS = 96
AGENTS = 8


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has a GIL")
@pytest.mark.skipif(_transition_c is None, reason="the extension was not built")
def test_the_compiled_core_leaves_the_gil_off() -> None:
    asked = "import sys; from fastclaim import core; print(core, sys._is_gil_enabled())"
    command = [sys.executable, "-W", "error", "-c", asked]
    assert subprocess.run(command, check=True, capture_output=True).stdout == b"c False\n"


def test_threads_that_share_a_pool_object_do_each_task_once(pool: TaskPool) -> None:
    start = threading.Barrier(AGENTS)
    done: list[str] = []

    def work(agent_id: str) -> None:
        start.wait()
        for number in range(TASKS // AGENTS):
            pool.publish(f"{agent_id}-{number}", priority=number % 3)
            with pool.claim_next(agent_id, wait=60) as claim:
                done.append(claim.task_id)
                claim.result = claim.task["task_id"]

    threads = [threading.Thread(target=work, args=(f"a{n}",)) for n in range(AGENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == len(set(done)) == TASKS
    assert {task["task_id"]: task["result"] for task in pool.tasks("completed")} == {
        task_id: task_id for task_id in done
    }

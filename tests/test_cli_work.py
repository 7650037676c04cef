"""`fastclaim work` as a process: what becomes of tasks, of commands, and of what they leave."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from fastclaim import TaskPool
from fastclaim.cli import job, parsers
from fastclaim.cli.worker import Worker

from .commands import COMMAND, DEADLINE_S, answer, environment, fastclaim, refusal

SH = ("--", "sh", "-c")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The directory of a pool with one task."""
    pool = TaskPool(tmp_path / "pool")
    pool.publish("a", "Do it")
    return Path(pool.base_dir)


@pytest.fixture
def work(base: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs ``fastclaim work`` for agent x to its end."""

    def run(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        return fastclaim("work", "--agent", "x", "--pool", base, *arguments, **variables)

    return run


@pytest.fixture
def start(base: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts ``fastclaim work`` for agent x; ended with the test."""
    started = []

    def run(*arguments: object, command: Sequence[str] = COMMAND) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*command, "work", "--agent", "x", "--pool", str(base), *map(str, arguments)],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """A pipe with a name, through which command and test wait for each other."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def tasks(base: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """Each task's state, and the task."""
    pool = TaskPool(base)
    return {task["task_id"]: (state, task) for state in pool.counts() for task in pool.tasks(state)}


def until(true: Callable[[], bool]) -> None:
    """Wait for something that happens in another process."""
    late_s = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < late_s
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# What commands get and give -----------------------------------------------------------------------


def test_a_command_gets_the_task_and_completes_it_with_what_it_prints(work, base):
    code = """
import json, os, sys
task = json.load(sys.stdin)
names = "FASTCLAIM_TASK_ID", "FASTCLAIM_AGENT", "FASTCLAIM_ATTEMPT", "A2A_BASE_DIR"
print(json.dumps([task["description"], *(os.environ[name] for name in names)]))
assert os.environ["FASTCLAIM_TOKEN"] == task["claim_token"]
assert not {"fastclaim", "owner", "claim_lock_acquired_at"} & task.keys()
"""
    result = work("--once", "--", sys.executable, "-c", code)
    assert (result.returncode, result.stderr) == (0, "")
    said = json.loads(result.stdout)
    assert (said["task_id"], said["state"]) == ("a", "completed")
    state, task = tasks(base)["a"]
    assert state == "completed"
    assert task["result"] == ["Do it", "a", "x", "1", str(base)]


@pytest.mark.parametrize(
    ("printed", "result"), [("two\nlines\n", "two\nlines"), ("", None), ("  7 \n", 7)]
)
def test_what_is_not_json_is_text(work, base, printed, result):
    work("--once", "--", "printf", printed.replace("\n", "\\n"))
    assert tasks(base)["a"][1]["result"] == result


def test_arguments_of_the_command_are_its_own(work, base):
    work("--once", "--", "echo", "--jobs", "--", "--agent", "-x")
    assert tasks(base)["a"][1]["result"] == "--jobs -- --agent -x"


def test_a_task_and_an_output_that_no_pipe_can_hold_pass(work, base):
    TaskPool(base).publish("big", "x" * 1_000_000, priority=1)
    work("--once", *SH, "cat")
    assert tasks(base)["big"][1]["result"]["description"] == "x" * 1_000_000


def test_a_command_need_not_read_its_input(work, base):
    TaskPool(base).publish("big", "x" * 1_000_000, priority=1)
    result = work("--once", *SH, "exec <&-; echo done")
    assert (result.returncode, result.stderr) == (0, "")
    assert tasks(base)["big"][1]["result"] == "done"


def test_a_command_inherits_no_descriptor(work, base):
    work("--once", "--", sys.executable, "-c", "import os; print(os.listdir('/proc/self/fd'))")
    # The fourth is that of the listing itself.
    assert len(tasks(base)["a"][1]["result"].split(",")) == 4


# Failure ------------------------------------------------------------------------------------------


def test_a_failure_is_written_down_with_the_last_lines_of_stderr(work, base):
    result = work("--once", *SH, "for n in $(seq 100); do echo line $n >&2; done; exit 3")
    assert result.returncode == 0
    assert result.stderr.splitlines() == [f"line {n}" for n in range(1, 101)]
    state, task = tasks(base)["a"]
    assert (state, task["attempts"]) == ("available", 1)
    lines = task["failures"][0]["error"].splitlines()
    assert lines[0] == "exit status 3: line 81"
    assert lines[-1] == "line 100"


def test_a_task_that_fails_again_and_again_has_failed(work, base):
    result = work("--until-empty", "--max-attempts", 2, *SH, "kill -SEGV $$")
    said = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["state"] for line in said] == ["available", "failed"]
    assert said[0]["error"] == "killed by SIGSEGV"
    assert tasks(base)["a"][0] == "failed"


def test_a_task_that_failed_can_be_left_for_later(work, base):
    work("--until-empty", "--retry-after", "1h", *SH, "exit 1")
    state, task = tasks(base)["a"]
    assert (state, task["attempts"]) == ("available", 1)


def test_a_command_that_is_not_there_costs_no_task_an_attempt(work, base):
    result = work("--once", "--", "no-such-command")
    assert result.returncode == 2
    assert result.stderr == "fastclaim work: no-such-command: no such command\n"
    assert "attempts" not in tasks(base)["a"][1]


def test_a_file_that_is_no_command_is_told_for_what_it_is(work, base, tmp_path):
    (tmp_path / "notexec").touch(0o644)
    result = work("--once", "--", tmp_path / "notexec")
    said = f"fastclaim work: {tmp_path}/notexec: is not executable\n"
    assert (result.returncode, result.stderr) == (2, said)
    result = work("--once", "--", tmp_path)
    assert result.stderr == f"fastclaim work: {tmp_path}: is a directory\n"
    result = work("--once", "--", tmp_path / "nothing")
    assert result.stderr == f"fastclaim work: {tmp_path}/nothing: no such command\n"


def test_a_command_that_cannot_be_started_costs_no_task_an_attempt(work, base, tmp_path):
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    result = work("--once", "--", script)
    assert result.returncode == 7
    state, task = tasks(base)["a"]
    assert (state, "attempts" in task) == ("available", False)


# Commands that settle their tasks themselves ------------------------------------------------------


def settle(verb: str, *options: str) -> str:
    """A command that settles its task by one of ours."""
    return f"{sys.executable} -m fastclaim {verb} {' '.join(options)} --token $FASTCLAIM_TOKEN >&2"


def work_quietly(work: Callable[..., subprocess.CompletedProcess[str]], code: str) -> Any:
    """The one line that is printed, where nothing is complained of."""
    result = work("--once", *SH, code)
    assert result.returncode == 0
    assert "fastclaim work:" not in result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("then", ["exit 0", "exit 1"])
def test_a_task_that_its_command_completes_is_told_as_completed(work, base, then):
    said = work_quietly(work, f"{settle('complete', '--result', 'mine')}; {then}")
    assert (said["task_id"], said["state"], "error" in said) == ("a", "completed", False)
    assert tasks(base)["a"][1]["result"] == "mine"


def test_a_task_that_its_command_gives_back_is_told_as_available(work):
    said = work_quietly(work, settle("release"))
    assert (said["state"], "error" in said) == ("available", False)


@pytest.mark.parametrize(("attempts", "state"), [(2, "available"), (1, "failed")])
def test_a_task_that_its_command_fails_is_told_with_its_error(work, base, attempts, state):
    TaskPool(base).publish("a", max_attempts=attempts, if_exists="replace")
    said = work_quietly(work, settle("fail", "--error", "no-disk"))
    assert (said["state"], said["error"]) == (state, "no-disk")


@pytest.mark.parametrize("ending", ["", ".complete()"])
def test_a_claim_that_went_to_somebody_else_is_complained_of(work, base, ending):
    code = f"""
import os
from fastclaim import TaskPool
pool = TaskPool(os.environ["A2A_BASE_DIR"])
pool.release("a", "x", token=os.environ["FASTCLAIM_TOKEN"])
pool.claim("a", "y", bind=False){ending}
"""
    result = work("--once", "--", sys.executable, "-c", code)
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr.startswith("fastclaim work: task 'a' is not claimed by 'x'")


def test_a_claim_whose_task_was_removed_is_complained_of(work, base):
    result = work("--once", *SH, f"rm {base}/tasks/claimed/a_x.json")
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr.startswith("fastclaim work: task 'a' is not claimed by 'x'")


# What fails around it --------------------------------------------------------------------------


@pytest.fixture
def full_pipe() -> Iterator[int]:
    """A pipe's end that takes nothing, and does not wait until it does."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    yield writing
    os.close(reading)
    os.close(writing)


def work_with_stderr(base: Path, stderr: object) -> subprocess.CompletedProcess[str]:
    command = ["work", "--agent", "x", "--pool", base, "--once", *SH, "echo note >&2; echo done"]
    return subprocess.run(
        [*COMMAND, *command],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=stderr,
        encoding="utf-8",
        timeout=DEADLINE_S,
    )


def test_a_job_is_completed_though_stderr_is_on_a_full_disk(base):
    with open("/dev/full", "w") as full:
        result = work_with_stderr(base, full)
    assert (result.returncode, json.loads(result.stdout)["state"]) == (0, "completed")
    assert tasks(base)["a"][1]["result"] == "done"


def test_a_job_is_completed_though_stderr_is_a_full_pipe_that_does_not_block(base, full_pipe):
    result = work_with_stderr(base, full_pipe)
    assert (result.returncode, json.loads(result.stdout)["state"]) == (0, "completed")
    assert tasks(base)["a"][1]["result"] == "done"


@pytest.fixture
def selector() -> Iterator[selectors.BaseSelector]:
    with selectors.DefaultSelector() as selector:
        yield selector


def test_a_job_whose_end_went_wrong_signals_no_group_any_more(selector, monkeypatch):
    running = job.Job(["true"], {}, environment(), selector)
    monkeypatch.setattr(running, "_listen", refuse)
    with pytest.raises(OSError, match="refused"):
        running.kill()
    # Its group has been waited for: another may have that number now.
    monkeypatch.setattr(os, "killpg", lambda *_: pytest.fail("signalled a group of others"))
    running.kill()
    running.signal(signal.SIGTERM)


def test_a_job_that_ended_when_its_time_was_up_is_sent_no_signal(selector, monkeypatch):
    running = job.Job(["true"], {}, environment(), selector)
    running.kill()
    monkeypatch.setattr(os, "killpg", lambda *_: pytest.fail("signalled a group of others"))
    running.signal(signal.SIGTERM)


def refuse(*_: object) -> None:
    raise OSError("refused")


def test_a_job_that_cannot_be_ended_keeps_no_task(base, monkeypatch):
    """Neither its own nor that of the next, and what went wrong first is what is told."""
    pool = TaskPool(base)
    pool.publish("b")
    words = ["--agent", "x", "--jobs", "2", "--pool", str(base), "--", "sleep", "1000"]
    arguments = parsers.command_parser("work").parse_args(words)
    kill = job.Job.kill

    def kill_and_refuse(running: job.Job) -> None:
        kill(running)
        refuse()

    monkeypatch.setattr(job.Job, "kill", kill_and_refuse)

    def start_two_and_raise() -> None:
        with Worker(arguments, pool, ["sleep", "1000"]) as own:
            own._start_jobs()
            assert pool.counts()["claimed"] == 2
            raise KeyError("first")

    with pytest.raises(KeyError, match="first"):
        start_two_and_raise()
    assert pool.counts()["available"] == 2


# How long it goes on ------------------------------------------------------------------------------


def test_until_empty_does_every_task_once_with_several_jobs(work, base, tmp_path):
    TaskPool(base).publish_many([{"task_id": f"t{n}"} for n in range(7)])
    log = tmp_path / "log"
    result = work("--until-empty", "--jobs", 3, *SH, f"echo $FASTCLAIM_TASK_ID >>{log}")
    assert result.returncode == 0
    assert sorted(log.read_text().split()) == ["a", *(f"t{n}" for n in range(7))]
    assert {state for state, _ in tasks(base).values()} == {"completed"}


def test_jobs_run_at_the_same_time(work, base, fifo):
    TaskPool(base).publish("b")
    # Each opens the pipe's other end: alone it would wait for ever.
    code = f"if [ $FASTCLAIM_TASK_ID = a ]; then echo x >{fifo}; else cat {fifo}; fi"
    assert work("--until-empty", "--jobs", 2, *SH, code).returncode == 0
    assert tasks(base)["b"][1]["result"] == "x"


def test_once_without_a_task_is_told(work, base):
    TaskPool(base).claim("a", "y")
    assert work("--once", "--until-empty", "--", "true").returncode == 1
    assert work("--once", "--idle-exit", "0.01", "--", "true").returncode == 1


def test_an_idle_worker_waits_and_then_ends(work, base):
    result = work("--idle-exit", "0.5", "--", "true")
    assert (result.returncode, tasks(base)["a"][0]) == (0, "completed")


@pytest.mark.parametrize("until", [["--until-empty"], ["--idle-exit", "0.01"]])
@pytest.mark.parametrize(("once", "status"), [([], 0), (["--once"], 1)])
def test_a_worker_that_ends_in_a_paused_pool_says_that_it_is_paused(
    work, base, until, once, status
):
    TaskPool(base).pause(reason="a\nmove")
    result = work(*until, *once, "--", "true")
    said = (
        "fastclaim work: nothing to claim: the pool is paused until somebody resumes it: a\\nmove"
    )
    assert (result.returncode, result.stdout, result.stderr) == (status, "", f"{said}\n")


def test_a_worker_that_did_its_one_task_does_not_speak_of_a_pause(work, base):
    result = work("--once", "--until-empty", *SH, f"{sys.executable} -m fastclaim pause >/dev/null")
    assert (result.returncode, result.stderr) == (0, "")


def test_the_line_tells_that_the_task_failed_and_the_status_does_not_as_the_help_says(work):
    result = work("--once", "--", "false")
    assert (result.returncode, json.loads(result.stdout)["error"]) == (0, "exit status 1")
    said = " ".join(fastclaim("work", "--help").stdout.split())
    assert "The status does not say whether the task failed; the line that is printed does" in said


# Told to stop -------------------------------------------------------------------------------------


def test_a_worker_that_is_told_to_stop_lets_its_command_finish(start, base, fifo):
    TaskPool(base).publish("b", priority=-1)
    process = start(*SH, f"echo x >{fifo}; cat {fifo}")
    fifo.read_text()  # it is running
    process.send_signal(signal.SIGTERM)
    assert process.stderr.readline().startswith("fastclaim work: stopping; 1 job may go on for ")
    fifo.write_text("in peace")
    stdout, stderr = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, stderr) == (128 + signal.SIGTERM, "")
    assert json.loads(stdout)["state"] == "completed"
    found = tasks(base)
    assert found["a"][1]["result"] == "in peace"
    assert found["b"][0] == "available"


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_command_that_takes_too_long_is_ended_and_its_task_given_back(start, base, fifo, stop):
    process = start("--grace-s", "0", *SH, f"echo $$ >{fifo}; sleep 1000 & wait")
    command = int(fifo.read_text())
    process.send_signal(stop)
    stdout, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 128 + stop
    assert json.loads(stdout)["state"] == "available"
    assert not is_running(command)
    state, task = tasks(base)["a"]
    assert (state, "attempts" in task) == ("available", False)


# The command, which gives jobs more time between SIGTERM and SIGKILL than a test has.
PATIENT = """
from fastclaim.cli import console, worker
worker.LAST_WORDS_S = 3600.0
console()
"""


def test_told_twice_it_sends_its_command_sigterm_and_told_again_kills_it(start, base, fifo):
    # It tells that it was sent SIGTERM, and goes on.
    code = f"trap 'echo told >{fifo}' TERM; echo here >{fifo}; while :; do sleep 1000 & wait; done"
    process = start("--grace-s", "1h", *SH, code, command=[sys.executable, "-c", PATIENT])
    assert fifo.read_text() == "here\n"
    process.send_signal(signal.SIGTERM)
    announced = process.stderr.readline()
    assert "1 job may go on for 3600 s; once more: SIGTERM now; a third time: SIGKILL" in announced
    process.send_signal(signal.SIGTERM)
    assert fifo.read_text() == "told\n"
    process.send_signal(signal.SIGTERM)
    stdout, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 128 + signal.SIGTERM
    assert json.loads(stdout)["state"] == "available"
    assert tasks(base)["a"][0] == "available"


def test_a_worker_that_waits_stops_at_once(start, base):
    process = start("--", "true")
    assert json.loads(process.stdout.readline())["state"] == "completed"
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 128 + signal.SIGTERM


def test_a_worker_that_is_killed_takes_its_command_along_and_the_task_comes_back(start, base, fifo):
    process = start(*SH, f"trap '' TERM; sleep 1000 & echo $$ $! >{fifo}; wait")
    pids = [int(pid) for pid in fifo.read_text().split()]
    process.kill()
    process.wait(DEADLINE_S)
    until(lambda: not any(map(is_running, pids)))
    task = answer("claim", "--agent", "y", "--wait", "10", "--pool", base)
    assert (task["task_id"], task["attempts"]) == ("a", 1)


def test_what_a_command_leaves_running_ends_with_it(work, base, tmp_path):
    pids = tmp_path / "pids"
    result = work("--once", *SH, f"sleep 1000 & echo $! >{pids}; echo done")
    assert result.returncode == 0
    assert tasks(base)["a"][1]["result"] == "done"
    until(lambda: not is_running(int(pids.read_text())))


@pytest.mark.parametrize("arguments", [(), ("--",), ("--jobs", "0", "--", "true")])
def test_a_worker_without_a_command_or_jobs_is_a_usage_error(work, arguments):
    assert work(*arguments).returncode == 2


def test_no_command_is_said(base):
    assert refusal("work", "--agent", "x", "--pool", base) == (
        2,
        "no command; it comes after --",
    )

"""`fastclaim demo` as a process: what it shows, what it refuses, and what it notices."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from fastclaim import TaskPool
from fastclaim.cli.journal import read_journal

COMMAND = [sys.executable, "-m", "fastclaim", "demo"]
TASKS = [
    {"task_id": f"t-{n}", "description": f"№ {n}", "priority": n % 5, "blocked_by": []}
    for n in range(100)
]
DEADLINE_S = 60
# For runs that are not about what is on the disk: it may be slow.
FAST = ("--durability", "none")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """What the command gets: its temporary pools are made where a test can look."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return os.environ | {"TMPDIR": str(scratch), "COLUMNS": "100", "TERM": "xterm"}


@pytest.fixture
def demo(environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs ``fastclaim demo`` to its end."""

    def run(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *map(str, arguments)],
            env=environment | variables,
            capture_output=True,
            encoding="utf-8",
            timeout=DEADLINE_S,
        )

    return run


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A file of tasks."""
    return jsonl(tmp_path / "tasks.jsonl", TASKS)


@pytest.fixture
def sabotage(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """Makes every process that the command starts, itself included, run some code first."""

    def make(code: str) -> dict[str, str]:
        directory = tmp_path / "sabotage"
        directory.mkdir()
        (directory / "sitecustomize.py").write_text(code)
        return {"PYTHONPATH": os.pathsep.join([str(directory), *filter(None, sys.path)])}

    return make


def jsonl(path: Path, tasks: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(task) + "\n" for task in tasks))
    return path


def switches(core: ModuleType) -> dict[str, str]:
    return {"FASTCLAIM_NO_EXTENSIONS": "1" if core.NAME == "python" else ""}


def scratch_is_empty(tmp_path: Path) -> bool:
    return not list((tmp_path / "scratch").iterdir())


def figures(output: str) -> dict[str, str]:
    """The summary: its second column by its first."""
    return dict(re.findall(r"^  (\w\S*(?: \S+)?)  +(.+?)(?:  .*)?$", output, re.MULTILINE))


def test_four_agents_do_each_task_once(demo, tasks, core, tmp_path):
    result = demo("--tasks", tasks, "--agents", 4, **switches(core))
    assert (result.returncode, result.stderr) == (0, "")
    assert "100 tasks: each claimed exactly once and completed exactly once," in result.stdout
    found = figures(result.stdout)
    assert found["tasks"] == "100"
    assert found["agents"] == "4"
    assert float(found["claims/s"].replace(",", "")) > 0
    assert found["claim, median"].endswith(" µs")
    assert found["claim, p99"].endswith(" µs")
    assert found["blocked"] == "0"
    assert found["core"] == core.NAME
    assert found["durability"] == "data"
    assert scratch_is_empty(tmp_path)


def test_tasks_that_wait_for_others_are_done_in_turn(demo, core, tmp_path):
    chain = [{"task_id": f"t-{n}", "blocked_by": [f"t-{n + 1}"]} for n in range(30)]
    tasks = [*chain, *TASKS[30:]]
    result = demo("--tasks", jsonl(tmp_path / "chain.jsonl", tasks), *FAST, **switches(core))
    assert (result.returncode, result.stderr) == (0, "")
    assert "and none before those that it waits for." in result.stdout
    assert figures(result.stdout)["blocked"] == "30"


def test_of_a_task_that_no_agent_may_claim_it_is_said_why(demo, tmp_path):
    tasks = [{"task_id": "done"}, {"task_id": "late", "not_before": 4_000_000_000}]
    result = demo("--tasks", jsonl(tmp_path / "late.jsonl", tasks), *FAST)
    assert result.returncode == 1
    assert "task 'late' was left in available/: it may not be claimed before 2096" in result.stdout


def test_without_arguments_eight_agents_do_the_sample(demo):
    result = demo()
    assert (result.returncode, result.stderr) == (0, "")
    assert figures(result.stdout)["agents"] == "8"
    assert "sample_tasks.jsonl" in result.stdout


@pytest.mark.parametrize("options", [("--no-lock-files",), ("--durability", "none")])
def test_a_pool_that_is_named_is_kept(demo, tasks, tmp_path, options):
    result = demo("--tasks", tasks, "--agents", 3, "--pool", tmp_path / "pool", *options)
    assert (result.returncode, result.stderr) == (0, "")
    completed = sorted(TaskPool(tmp_path / "pool").tasks("completed"), key=lambda t: t["task_id"])
    assert [task["task_id"] for task in completed] == sorted(t["task_id"] for t in TASKS)
    assert sorted(os.listdir(tmp_path / "pool" / "demo")) == [f"agent-{n}.jsonl" for n in (1, 2, 3)]


def test_one_task_needs_one_agent(demo, tmp_path):
    odd = {"task_id": "", "status": "claimed", "claimed_by": "x", "n": 1e308}
    result = demo("--tasks", jsonl(tmp_path / "one.jsonl", [odd]))
    assert (result.returncode, result.stderr) == (0, "")
    assert figures(result.stdout)["agents"] == "1"


# Bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tasks", "reason"),
    [
        ([{"task_id": "a", "blocked_by": ["b"]}], "1: task 'a' is blocked by 'b', no task here"),
        ([{"task_id": "a"}, {"task_id": "b", "blocked_by": ["b"]}], "2: task 'b' waits for itself"),
        (
            [{"task_id": "a", "blocked_by": ["b"]}, {"task_id": "b", "blocked_by": ["a"]}],
            "1: task 'a' waits for itself: a after b after a",
        ),
        ([{"task_id": "a", "blocked_by": 1.5}], "1: task 'a': blocked_by is not a list but float"),
    ],
)
def test_tasks_that_could_never_be_done_are_named(demo, tmp_path, tasks, reason):
    path = jsonl(tmp_path / "bad.jsonl", tasks)
    result = demo("--tasks", path)
    assert result.returncode == 5
    assert f"{path}:{reason}" in result.stderr
    assert scratch_is_empty(tmp_path)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"task_id": "a/b"}', "task id 'a/b': contains '/'"),
        (b'{"task_id": "a\\u0000"}', "task id 'a\\x00': contains NUL"),
        (b'{"task_id": "' + b"x" * 242 + b'"}', f"task id '{'x' * 242}': needs a file name of 256"),
        (
            b'{"task_id": "b", "constraint_enforcement": 3}',
            "task 'b': constraint_enforcement is not a dict",
        ),
        (b'["b"]', "not a JSON object but an array"),
        (b'{"task_id": "b"', "not JSON: "),
        (b'{"id": "b"}', "the task has no task_id"),
        (b'{"task_id": "a"}', "task_id 'a' stands on line 1 already"),
        (b'{"task_id": "\xe9"}', "not UTF-8 at byte 14"),
    ],
)
def test_a_line_that_is_no_task_is_named_and_nothing_published(demo, tmp_path, line, reason):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"task_id": "a"}\n' + line + b"\n")
    result = demo("--tasks", path, "--pool", tmp_path / "pool")
    assert result.returncode == 5
    assert result.stderr.startswith(f"fastclaim demo: {path}:2: {reason}")
    assert result.stderr.count("\n") == 1
    assert [path for path in (tmp_path / "pool").rglob("*") if path.is_file()] == []


def test_a_file_that_is_not_there_is_named(demo, tmp_path):
    result = demo("--tasks", tmp_path / "none.jsonl")
    assert result.returncode == 2
    assert result.stderr == f"fastclaim demo: {tmp_path}/none.jsonl: No such file or directory\n"


def test_a_directory_of_tasks_is_refused(demo, tmp_path):
    result = demo("--tasks", tmp_path)
    assert result.returncode == 2
    assert result.stderr == f"fastclaim demo: {tmp_path}: Is a directory\n"


@pytest.mark.parametrize("where", ["demo --debug --tasks {}", "--debug demo --tasks {}"])
def test_debug_shows_the_traceback(environment, where):
    arguments = where.format("/nonexistent").split()
    result = subprocess.run(
        [*COMMAND[:-1], *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert result.stderr.startswith("Traceback (most recent call last):\n")
    assert result.stderr.endswith("BadInput: /nonexistent: No such file or directory\n")


@pytest.mark.parametrize("number", ["0", "-1", "257", "many", "1.5"])
def test_a_number_of_agents_that_makes_no_sense_is_refused(demo, number):
    result = demo(f"--agents={number}")
    assert result.returncode == 2
    assert f"{number!r} is not a whole number from 1 to 256" in result.stderr


def used_pool(path: Path) -> str:
    TaskPool(path).publish("old")
    return "not an empty pool, there is something in available/"


def other_directory(path: Path) -> str:
    path.mkdir()
    (path / "thesis.tex").touch()
    return "neither a pool nor empty"


def a_file(path: Path) -> str:
    path.touch()
    return "not a directory"


def old_journals(path: Path) -> str:
    TaskPool(path)
    (path / "demo").mkdir()
    return "has the journals of an earlier demo in it"


@pytest.mark.parametrize("prepare", [used_pool, other_directory, a_file, old_journals])
def test_a_pool_that_is_in_use_is_refused_and_not_touched(demo, tmp_path, prepare):
    reason = prepare(tmp_path / "pool")
    before = sorted((tmp_path / "pool").rglob("*"))
    result = demo("--pool", tmp_path / "pool")
    assert result.returncode == 2
    assert result.stderr == f"fastclaim demo: --pool {tmp_path}/pool: {reason}\n"
    assert sorted((tmp_path / "pool").rglob("*")) == before


def test_an_empty_pool_is_taken_and_an_empty_name_is_not(demo, tmp_path):
    TaskPool(tmp_path / "pool")
    assert demo("--pool", tmp_path / "pool", "--agents", 1, *FAST).returncode == 0
    result = demo("--pool", "")
    assert (result.returncode, result.stderr) == (2, "fastclaim demo: --pool: the name is empty\n")


def test_what_the_system_refuses_is_told_in_one_line(demo):
    result = demo("--pool", "/proc/no/pool")
    assert result.returncode == 7
    assert result.stderr.startswith("fastclaim demo: /proc/no")
    assert result.stderr.count("\n") == 1


# What goes wrong ----------------------------------------------------------------------------------

FORGETS_A_TASK = """
from fastclaim import TaskPool
publish_many = TaskPool.publish_many
TaskPool.publish_many = lambda pool, tasks: publish_many(pool, tasks[1:])
"""

DIES_WITH_A_CLAIM = """
import os, signal, sys
if any('"agent-2"' in argument for argument in sys.argv):
    from fastclaim.cli.journal import CLAIMED, Journal
    write = Journal.write
    def write_or_die(journal, event, **fields):
        if event == CLAIMED:
            os.kill(os.getpid(), signal.SIGKILL)
        write(journal, event, **fields)
    Journal.write = write_or_die
"""

CANNOT_START = """
import sys
if any('"agent-2"' in argument for argument in sys.argv):
    from fastclaim.cli import agent_process
    def fail(*_, **__):
        raise OSError(24, "Too many open files", "somewhere")
    agent_process.TaskPool = fail
"""

# Agents that have been told to start, and never end by themselves.
DAWDLES = """
import sys
if any('"agent-' in argument for argument in sys.argv):
    import threading
    from fastclaim.cli import agent_process
    agent_process._Work.until_nothing_is_left = lambda *_: threading.Event().wait()
"""


def test_a_lost_task_makes_it_exit_1_and_keep_the_pool(demo, tasks, tmp_path, sabotage):
    result = demo("--tasks", tasks, "--agents", 2, *FAST, **sabotage(FORGETS_A_TASK))
    assert (result.returncode, result.stderr) == (1, "")
    assert "1 thing went wrong:\n" in result.stdout
    assert "  - task 't-0' is lost: it is in none of the directories\n" in result.stdout
    (kept,) = (tmp_path / "scratch").iterdir()
    assert f"The pool was kept: {kept}\n" in result.stdout
    assert len(list(TaskPool(kept).tasks("completed"))) == 99


def test_an_agent_that_is_killed_is_noticed_and_others_do_its_task(demo, core, tmp_path, sabotage):
    variables = sabotage(DIES_WITH_A_CLAIM) | switches(core)
    # Enough of them for each agent to get one.
    tasks = jsonl(tmp_path / "many.jsonl", [{"task_id": f"t-{n}"} for n in range(1500)])
    result = demo("--tasks", tasks, "--agents", 3, *FAST, **variables)
    assert (result.returncode, result.stderr) == (1, "")
    assert "1 thing went wrong:\n  - agent-2 was killed by SIGKILL\n" in result.stdout


def test_an_agent_that_cannot_start_is_noticed(demo, tasks, sabotage):
    result = demo("--tasks", tasks, "--agents", 3, *FAST, **sabotage(CANNOT_START))
    assert (result.returncode, result.stderr) == (1, "")
    assert "1 thing went wrong:\n  - agent-2 failed: OSError: [Errno 24]" in result.stdout


def test_of_many_problems_the_first_ten_are_listed(demo, tasks, sabotage):
    everybody_dies = DIES_WITH_A_CLAIM.replace('"agent-2"', "agent-")
    result = demo("--tasks", tasks, "--agents", 2, *FAST, **sabotage(everybody_dies))
    assert (result.returncode, result.stderr) == (1, "")
    listed = [line for line in result.stdout.splitlines() if line.startswith("  - ")]
    assert len(listed) == 11
    assert listed[:2] == [f"  - agent-{n} was killed by SIGKILL" for n in (1, 2)]
    assert listed[10] == "  - and 92 more"
    assert figures(result.stdout)["claims/s"] == "-"


def start_events(base_dir: Path) -> Iterator[dict[str, object]]:
    for path in (base_dir / "demo").glob("*.jsonl"):
        events = read_journal(str(path))
        if len(events) == 2:
            yield events[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_all_agents_and_clears_up(environment, tmp_path, tasks, sabotage, number):
    process = subprocess.Popen(
        [*COMMAND, "--tasks", str(tasks), "--agents", "2"],
        env=environment | sabotage(DAWDLES),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    deadline_s = time.monotonic() + DEADLINE_S
    started: list[dict[str, object]] = []
    while len(started) < 2:
        assert time.monotonic() < deadline_s
        assert process.poll() is None
        time.sleep(0.01)
        for base_dir in (tmp_path / "scratch").iterdir():
            started = list(start_events(base_dir))
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, errors) == (128 + number, b"")
    assert scratch_is_empty(tmp_path)
    for event in started:
        with pytest.raises(ProcessLookupError):
            os.kill(event["pid"], 0)


# On a terminal ------------------------------------------------------------------------------------


def on_a_terminal(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Run the command with a terminal as its output: exit status and what the terminal got."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [*COMMAND, *arguments], env=environment, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    output = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux says EIO at the end
            piece = b""
        if not piece:
            break
        output += piece
    os.close(ours)
    return process.wait(DEADLINE_S), output.decode().replace("\r\n", "\n")


def test_on_a_terminal_with_rich_there_is_a_bar(environment):
    pytest.importorskip("rich")
    status, output = on_a_terminal(environment, "--agents", "2", *FAST)
    assert status == 0
    assert "\x1b[" in output
    assert "━" in output
    assert "✓ 60 tasks: each claimed exactly once and completed exactly once," in output


def test_on_a_terminal_without_rich_there_are_plain_lines(environment, sabotage):
    stub = "import sys; sys.modules['rich'] = None"
    status, output = on_a_terminal(environment | sabotage(stub), "--agents", "2", *FAST)
    assert status == 0
    assert "\x1b" not in output
    assert "2 agents at work: 60 of 60\n" in output
    assert figures(output)["tasks"] == "60"


def test_a_dumb_terminal_gets_plain_lines(environment):
    status, output = on_a_terminal(environment | {"TERM": "dumb"}, "--agents", "2", *FAST)
    assert status == 0
    assert "\x1b" not in output

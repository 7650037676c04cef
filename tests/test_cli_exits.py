"""Each kind of failure has its exit status, and says in one line what was wrong."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from fastclaim import TaskPool, TaskPoolError
from fastclaim.cli import exits, parsers

from .commands import fastclaim, python_path, refusal


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The directory of a pool that is there, and empty."""
    return Path(TaskPool(tmp_path / "pool").base_dir)


def errors() -> list[type[TaskPoolError]]:
    found = [TaskPoolError]
    for error in found:
        found += error.__subclasses__()
    return found


STATUSES = {
    "TaskPoolError": 2,
    "TaskNotAvailable": 1,
    "AlreadyClaimed": 1,
    "PoolPaused": 1,
    "LockTimeout": 3,
    "InvalidTask": 5,
    "InvalidName": 5,
    "TaskExists": 1,
    "NameCollision": 1,
    "KeyHeld": 1,
    "ClaimLost": 6,
    "PoolUnavailable": 7,
}


@pytest.mark.parametrize("error", errors(), ids=lambda error: error.__name__)
def test_every_error_of_a_pool_has_its_exit_status(error):
    assert exits.status_of(error("text")) == STATUSES[error.__name__]


def test_every_exit_status_is_explained():
    statuses = {
        value for name, value in vars(exits).items() if name.isupper() and name != "EXPLAINED"
    }
    assert {status for status in statuses if isinstance(status, int)} == set(exits.EXPLAINED)


def test_a_lost_race_names_the_winner(base):
    TaskPool(base).publish("a")
    TaskPool(base).claim("a", "winner")
    status, line = refusal("claim", "a", "--agent", "loser", "--pool", base)
    assert status == 1
    assert "'winner'" in line


def test_a_lock_that_others_hold_for_too_long_is_a_timeout(base):
    TaskPool(base).publish("a")
    with open(base / "tasks" / "available" / "a.json", "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        status, line = refusal("claim", "a", "--agent", "x", "--wait", "0", "--pool", base)
    assert status == 3
    assert "'a'" in line


@pytest.mark.parametrize(
    "command",
    [
        ["claim", "nothing", "--agent", "x"],
        ["complete", "nothing", "--agent", "x"],
        ["release", "nothing", "--agent", "x"],
        ["fail", "nothing", "--agent", "x"],
        ["renew", "nothing", "--agent", "x", "--lease", "1"],
        ["show", "nothing"],
        ["why", "nothing"],
    ],
    ids=lambda command: command[0],
)
def test_a_task_that_is_nowhere_is_no_such_task(base, command):
    assert refusal(*command, "--pool", base) == (4, "no task 'nothing' in the pool")


def test_a_completed_task_is_lost_and_not_unknown(base):
    TaskPool(base).publish("a")
    TaskPool(base).claim("a", "x").complete()
    assert refusal("claim", "a", "--agent", "x", "--pool", base)[0] == 1
    assert refusal("complete", "a", "--agent", "x", "--pool", base)[0] == 6


@pytest.mark.parametrize("name", ["a/b", "a\nb/c", "x" * 300])
def test_a_name_that_cannot_be_one_is_invalid(base, name):
    assert refusal("claim", name, "--agent", "x", "--pool", base)[0] == 5
    assert refusal("publish", "--id", name, "--pool", base)[0] == 5


def test_a_document_that_is_no_task_is_invalid(base):
    (base / "tasks" / "available" / "a.json").write_text("[]")
    assert refusal("claim", "a", "--agent", "x", "--pool", base)[0] == 5
    assert refusal("show", "a", "--pool", base)[0] == 5


READING = ("list", "status", "recover", "resume")


@pytest.mark.parametrize("command", READING)
def test_a_mistyped_pool_is_named_and_not_made(tmp_path, command):
    status, line = refusal(command, "--pool", tmp_path / "typo")
    assert (status, line) == (7, f"{tmp_path}/typo: there is no pool")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [["claim", "--agent", "x"], ["work", "--agent", "x", "--until-empty", "--", "true"], ["pause"]],
)
def test_whoever_may_come_before_the_tasks_says_that_a_pool_was_made(tmp_path, command):
    words, place = command[:1], ["--pool", tmp_path / "new"]
    made = f"fastclaim {words[0]}: {tmp_path}/new: there was no pool; made a new one\n"
    assert made in fastclaim(*words, *place, *command[1:]).stderr
    assert made not in fastclaim(*words, *place, *command[1:]).stderr


@pytest.mark.parametrize("command", [["list"], ["claim", "--agent", "x"], ["publish", "--id", "a"]])
def test_a_pool_path_that_is_a_file_is_named(tmp_path, command):
    (tmp_path / "file").touch()
    status, line = refusal(*command, "--pool", tmp_path / "file")
    assert status == 7
    assert line.startswith(f"{tmp_path}/file")
    assert line.endswith(": Not a directory")


def test_a_pool_that_cannot_be_made_is_named():
    status, line = refusal("publish", "--id", "a", "--pool", "/proc/self/pool")
    assert status == 7
    assert line.startswith("/proc/self/pool")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_pool_that_must_not_be_written_is_named(base):
    TaskPool(base).publish("a")
    (base / "tasks" / "claimed").chmod(0o500)
    status, line = refusal("claim", "a", "--agent", "x", "--pool", base)
    assert status == 7
    assert line.endswith(": Permission denied")


@pytest.mark.parametrize("command", [["list"], ["claim", "--agent", "x"], ["publish", "--id", "a"]])
def test_a_url_of_another_kind_is_refused_and_its_password_not_shown(
    tmp_path, monkeypatch, command
):
    monkeypatch.chdir(tmp_path)
    assert refusal(*command, "--pool", "mysql://joe:s3cret@host/db") == (
        2,
        "mysql://...: a pool is a directory, or postgresql://...",
    )
    assert list(tmp_path.iterdir()) == []


def test_a_pool_that_is_not_there_is_not_made_to_be_moved(tmp_path):
    status, line = refusal(
        "migrate", "--from", tmp_path / "typo", "--to", "postgresql://joe@127.0.0.1:1/db"
    )
    assert (status, line) == (7, f"{tmp_path}/typo: there is no pool")
    assert list(tmp_path.iterdir()) == []


def test_watch_without_a_terminal_is_refused(base):
    pytest.importorskip("textual")
    status, line = refusal("watch", "--pool", base)
    assert (status, "needs a terminal" in line) == (2, True)


def test_an_empty_pool_name_is_a_usage_error():
    assert refusal("list", "--pool", "") == (2, "--pool: the name is empty")


@pytest.mark.parametrize(
    "arguments",
    [
        ["claim"],
        ["claim", "--agent", "x", "--wait", "-1"],
        ["claim", "--agent", "x", "--wait", "nan"],
        ["claim", "--agent", "x", "--lease", "inf"],
        ["claim", "--agent", "x", "--unknown"],
        ["claim", "--agent", ""],
        ["publish", "--id", ""],
        ["claim", "--ag", "x"],
        ["list", "--state", "lost"],
        ["list", "--limit", "few"],
        ["prune", "claimed", "--older-than", "0"],
        ["serve-metrics", "--port", "65536"],
        ["completion", "tcsh"],
    ],
)
def test_arguments_that_make_no_sense_are_usage_errors(arguments):
    status, line = refusal(*arguments)
    assert status == 2
    assert line.endswith(f" (see fastclaim {arguments[0]} --help)")


@pytest.mark.parametrize(
    ("command", "option", "number", "expected"),
    [
        ("bench", "--rounds", "0", "from 1 to 100000"),
        ("demo", "--agents", "257", "from 1 to 256"),
        ("list", "--limit", "1.5", "from 0 on"),
        ("serve-metrics", "--port", "65536", "from 0 to 65535"),
        ("publish", "--max-attempts", "0", "from 1 on"),
        ("work", "--jobs", "many", "from 1 on"),
        ("work", "--max-attempts", "", "from 1 on"),
        ("work", "--jobs", "9" * 5000, "from 1 on"),
    ],
)
def test_what_is_no_whole_number_is_said_with_what_is_expected(
    capsys, command, option, number, expected
):
    with pytest.raises(SystemExit):
        parsers.command_parser(command).parse_args([option, number])
    said = f"argument {option}: {number!r} is not a whole number {expected} (see"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--id", "x", "--blocked_by", "y"], "--blocked_by; did you mean --blocked-by? (see"),
        (["--id", "x", "--priorities=2"], "--priorities=2; did you mean --priority? (see"),
        (["--id", "x", "--zzz"], "unrecognized arguments: --zzz (see"),
    ],
)
def test_of_a_mistyped_option_it_is_said_which_may_be_meant(capsys, given, said):
    with pytest.raises(SystemExit):
        parsers.command_parser("publish").parse_args(given)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ["claim", "--agnet", "a"],
            "the following arguments are required: --agent (or $FASTCLAIM_AGENT);"
            " there is no --agnet; did you mean --agent?",
        ),
        (
            ["renew", "x", "--agent", "a", "--leese=5"],
            "the following arguments are required: --lease;"
            " there is no --leese; did you mean --lease?",
        ),
        (
            ["complete"],
            "the following arguments are required: TASK (or $FASTCLAIM_TASK_ID),"
            " --agent (or $FASTCLAIM_AGENT)",
        ),
        (
            ["work", "--", "cmd", "--agnet", "a"],
            "the following arguments are required: --agent (or $FASTCLAIM_AGENT)",
        ),
        (["fail", "x", "--agent", "a", "--reason", "b"], "unrecognized arguments: --reason b"),
        (
            ["publish", "a.jsonl", "b.jsonl"],
            "unrecognized arguments: b.jsonl; one FILE.jsonl is taken",
        ),
        (["status", "x"], "unrecognized arguments: x"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_of_a_mistyped_or_missing_argument_it_is_said_what_to_write(given, said):
    assert refusal(*given) == (2, f"{said} (see fastclaim {given[0]} --help)")


@pytest.mark.parametrize(
    "command",
    [["claim", "--agent", "x"], ["publish", "--id", "a"], ["pause"]],
    ids=lambda command: command[0],
)
def test_no_pool_is_made_inside_a_pool(base, command):
    said = f"{base}/tasks: that is inside a pool; the pool is {base}"
    assert refusal(*command, "--pool", base / "tasks") == (2, said)
    assert not (base / "tasks" / "tasks").exists()


@pytest.mark.parametrize("command", ["show", "why", "claim"])
def test_debug_shows_a_traceback_and_the_status_stays(base, command):
    arguments = [command, "nothing", "--pool", base]
    if command == "claim":
        arguments += ["--agent", "x"]
    for debug in (["--debug", *arguments], [*arguments, "--debug"]):
        result = fastclaim(*debug)
        assert result.returncode == 4
        assert result.stderr.startswith("Traceback (most recent call last):\n")
        assert "'nothing'" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("length", [245, 300])
def test_a_name_too_long_for_some_states_file_is_invalid(base, length):
    status, line = refusal("claim", "y" * length, "--agent", "a", "--pool", base)
    assert status == 5
    assert "255 are allowed" in line


@pytest.mark.parametrize("verb", ["complete", "release", "fail", "renew"])
def test_a_token_of_another_claim_of_the_same_agent_is_told(base, verb):
    TaskPool(base).publish("p")
    TaskPool(base).claim("p", "a", bind=False)
    lease = ["--lease", "1"] if verb == "renew" else []
    arguments = [verb, "p", "--agent", "a", "--token", "xx", *lease, "--pool", base]
    said = "task 'p' is claimed by 'a', but not with that token"
    assert refusal(*arguments) == (6, said)


@pytest.mark.parametrize("command", [["status"], ["list"], ["claim", "--agent", "x"], ["doctor"]])
def test_a_database_without_its_driver_says_what_to_install(tmp_path, command):
    (tmp_path / "psycopg.py").write_text("raise ImportError('not installed')")
    url = "postgresql://joe@127.0.0.1:1/db"
    assert refusal(*command, "--pool", url, PYTHONPATH=python_path(tmp_path)) == (
        2,
        "this needs psycopg: install fastclaim[postgres]",
    )

"""The command `fastclaim`, as a process, on a pool that is a PostgreSQL URL with a password."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from fastclaim import cli
from fastclaim.cli.survey import LATELY_S, Survey
from fastclaim.postgres.pool import PostgresPool

from ..commands import answer, answers, fastclaim, refusal

PASSWORD = "s3cret"


def with_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    user, at, place = rest.rpartition("@")
    return f"{scheme}://{user}:{PASSWORD}{at}{place}" if at and ":" not in user else url


@pytest.fixture
def url(postgres_url: str) -> str:
    """An empty pool; the server lets everybody in, and so does not look at the password."""
    return with_password(postgres_url)


@pytest.fixture
def run(url: str) -> Callable[..., list[Any]]:
    """Runs a command on the pool, which must succeed; what it answers."""
    return lambda *arguments, **more: answers(*arguments, A2A_BASE_DIR=url, **more)


@pytest.fixture
def refused(url: str) -> Callable[..., tuple[int, str]]:
    """Runs a command on the pool, which must refuse; its status and its one line."""
    return lambda *arguments, **more: refusal(*arguments, "--pool", url, **more)


def states(run: Callable[..., list[Any]]) -> dict[str, list[str]]:
    """The ids in each state."""
    return {
        state: sorted(task["task_id"] for task in run("list", "--state", state))
        for state in ("available", "claimed", "completed", "failed")
    }


def test_a_task_goes_its_way(run, refused):
    assert run("publish", "--id", "a", "--priority", "2") == [{"published": 1, "ignored": 0}]
    assert refused("publish", "--id", "a") == (1, "task 'a' exists already")
    (task,) = run("claim", "--agent", "x", "--lease", "10m")
    assert (task["task_id"], task["claimed_by"]) == ("a", "x")
    assert refused("claim", "a", "--agent", "y") == (1, "task 'a' is claimed by 'x'")
    assert refused("claim", "--agent", "y") == (1, "nothing to claim")
    assert run("show", "a") == run("mine", "--agent", "x") == run("list", "--state", "claimed")
    (renewed,) = run("renew", "a", "--agent", "x", "--lease", "1h")
    assert renewed["lease_expires_at"] > task["lease_expires_at"]
    assert refused("complete", "a", "--agent", "y")[0] == 6
    run("complete", "a", "--agent", "x", "--result", '{"ok": true}')
    assert run("show", "a")[0]["result"] == {"ok": True}
    assert refused("complete", "a", "--agent", "x")[0] == 6


def test_a_claim_is_given_back_or_fails_and_is_tried_again(run, refused):
    run("publish", "--id", "a", "--max-attempts", "1")
    run("claim", "a", "--agent", "x")
    assert run("release", "a", "--agent", "x") == [{"task_id": "a", "state": "available"}]
    run("claim", "a", "--agent", "x")
    assert run("fail", "a", "--agent", "x", "--error", "boom") == [
        {"task_id": "a", "state": "failed"}
    ]
    assert run("retry", "a") == [{"retried": 1}]
    assert run("retry", "--all") == [{"retried": 0}]
    assert refused("retry", "nix")[0] == 4
    assert states(run)["available"] == ["a"]


@pytest.mark.parametrize(
    "command", [("claim", "nix", "--agent", "x"), ("show", "nix"), ("why", "nix")], ids=" ".join
)
def test_a_task_that_is_not_there_is_named(refused, command):
    assert refused(*command) == (4, "no task 'nix' in the pool")


def test_a_file_is_published_or_nothing_of_it(run, refused):
    lines = '{"task_id": "a"}\n{"task_id": "b", "blocked_by": ["a"]}\n'
    status, line = refused("publish", "-", input=lines + "nonsense\n")
    assert (status, ":3: " in line) == (5, True)
    assert states(run)["available"] == []
    run("publish", "-", input=lines)
    assert states(run)["available"] == ["a", "b"]
    assert "waits for a (" in run("why", "b")[0]["why"]


def test_nothing_is_claimed_while_the_pool_is_paused(run, refused):
    run("publish", "--id", "a")
    run("pause", "--for", "1h", "--reason", "quiet")
    status, line = refused("claim", "--agent", "x")
    assert (status, "nothing to claim: the pool is paused until" in line) == (1, True)
    status, line = refused("claim", "a", "--agent", "x")
    assert (status, "quiet" in line) == (1, True)
    run("resume")
    assert run("claim", "--agent", "x")[0]["task_id"] == "a"


def test_status_says_since_when_the_oldest_waits(run):
    run("publish", "--id", "a")
    (found,) = run("status")
    assert found["tasks"]["available"] == 1
    assert found["oldest_waiting"]["task_id"] == "a"
    assert found["oldest_waiting"]["waited_s"] < 3600
    assert PASSWORD not in found["pool"]


@pytest.fixture
def _no_state_is_read_whole(monkeypatch):
    """But for the claims, of which there are few."""
    tasks = PostgresPool.tasks

    def claims(pool, state):
        assert state == "claimed"
        return tasks(pool, state)

    monkeypatch.setattr(PostgresPool, "tasks", claims)


@pytest.mark.usefixtures("_no_state_is_read_whole")
def test_what_looks_at_one_task_or_counts_them_reads_no_state_whole(url, capsys):
    pool = PostgresPool(url)
    for task_id in ("waiting", "held", "done", "given-up"):
        pool.publish(task_id, max_attempts=1)
    pool.claim("held", "a")
    pool.claim("done", "a").complete()
    pool.claim("given-up", "a").fail("e")
    for task_id, state in (
        ("waiting", "available"),
        ("held", "claimed"),
        ("done", "completed"),
        ("given-up", "failed"),
    ):
        assert cli.main(["show", task_id, "--pool", url]) == 0
        assert json.loads(capsys.readouterr().out)["status"] == state
        assert cli.main(["why", task_id, "--pool", url]) == 0
        capsys.readouterr()
    assert cli.main(["show", "nix", "--pool", url]) == 4
    capsys.readouterr()
    assert cli.main(["status", "--pool", url]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["completed_last_minute"] == 1
    assert [failure["task_id"] for failure in status["failures"]] == ["given-up"]


@pytest.mark.usefixtures("_no_state_is_read_whole")
def test_of_what_waits_the_first_is_shown_and_of_what_has_ended_the_latest(url, outsider):
    pool = PostgresPool(url)
    for task_id in ("b", "c", "a"):
        pool.publish(task_id, max_attempts=1)
    survey = Survey(pool)

    def shown(state):
        return [task["task_id"] for task in survey.tasks(state, 2)]

    assert shown("available") == ["b", "c"]
    claims = {task_id: pool.claim(task_id, "x") for task_id in ("c", "a", "b")}
    assert shown("claimed") == ["c", "a"]
    for task_id in ("b", "a", "c"):
        claims[task_id].complete()
    assert shown("completed") == ["c", "a"]
    assert survey.snapshot().completed_lately == 3
    outsider.execute(
        f"UPDATE {pool._database.schema}.tasks SET ended_at = ended_at - %s WHERE task_id <> 'a'",
        [LATELY_S],
    )
    assert survey.snapshot().completed_lately == 1


def test_a_claim_whose_lease_is_over_is_recovered(run):
    run("publish", "--id", "a")
    run("claim", "a", "--agent", "x", "--lease", "0.001")
    assert run("recover", "--dry-run")[0]["returned"] == ["a"]
    assert states(run)["claimed"] == ["a"]
    assert run("recover")[0]["returned"] == ["a"]
    assert states(run)["available"] == ["a"]


@pytest.mark.parametrize(
    "command",
    [
        ("status",),
        ("show", "a"),
        ("recover",),
        ("resume",),
        ("release", "a", "--agent", "x"),
        ("migrate", "--from", "URL", "--to", "PLACE"),
    ],
    ids=" ".join,
)
def test_a_mistyped_schema_is_no_pool_and_becomes_none(url, outsider, tmp_path, command):
    mistyped = f"{url}_mistyped"
    words = {"URL": mistyped, "PLACE": str(tmp_path / "pool")}
    named = [words.get(word, word) for word in command]
    more = [] if command[0] == "migrate" else ["--pool", mistyped]
    status, line = refusal(*named, *more)
    assert status == 7
    assert line.endswith("_mistyped: there is no pool")
    schema = mistyped.partition("schema=")[2]
    assert outsider.execute("SELECT to_regnamespace(%s)", [schema]).fetchone() == (None,)


def test_old_tasks_are_pruned(run):
    run("publish", "--id", "a")
    run("claim", "a", "--agent", "x")
    run("complete", "a", "--agent", "x")
    assert run("prune", "completed", "--older-than", "1h") == []
    assert run("prune", "completed", "--older-than", "0") == [{"task_id": "a", "removed": False}]
    assert run("prune", "completed", "--older-than", "0", "--yes") == [
        {"task_id": "a", "removed": True}
    ]
    assert states(run)["completed"] == []


def test_the_doctor_looks_at_the_server_and_says_which_pool_it_is(run, url):
    findings = {finding["check"]: finding for finding in run("doctor")}
    assert findings["server"]["level"] == "ok"
    assert f"?schema={url.partition('schema=')[2]}" in findings["pool"]["message"]
    assert PASSWORD not in json.dumps(findings)


def test_the_doctor_advises_a_command(run):
    run("pause")
    (advice,) = [finding["advice"] for finding in run("doctor") if finding["check"] == "pause"]
    assert advice == "run `fastclaim resume` when it is time"


def test_a_worker_empties_the_pool_and_its_command_gets_the_same_pool(run, url):
    run("publish", "--id", "a")
    run("publish", "--id", "b", "--blocked-by", "a")
    ends = "import os; print(os.environ['FASTCLAIM_TASK_ID'], os.environ['A2A_BASE_DIR'])"
    done = run("work", "--agent", "w", "--until-empty", "--", sys.executable, "-c", ends)
    assert [(task["task_id"], task["state"]) for task in done] == [
        ("a", "completed"),
        ("b", "completed"),
    ]
    assert run("show", "b")[0]["result"] == f"b {url}"


def test_a_pool_moves_to_a_directory_and_back(run, url, tmp_path):
    run("publish", "--id", "a")
    there = tmp_path / "pool"
    for source, target in ((url, there), (there, url)):
        moved = fastclaim("migrate", "--from", source, "--to", target)
        assert (moved.returncode, moved.stderr) == (0, "")
        assert PASSWORD not in moved.stdout
    assert f"?schema={url.partition('schema=')[2]}" in moved.stdout
    assert answers("list", "--pool", there) == []
    assert states(run)["available"] == ["a"]


@pytest.mark.parametrize(
    "command",
    [("events",), ("events", "--follow"), ("serve-metrics",), ("demo",), ("bench", "--dir")],
    ids=" ".join,
)
def test_what_needs_files_refuses_a_url(command, url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = command if "--dir" in command else (*command, "--pool")
    status, line = refusal(*arguments, url)
    assert status == 2
    assert "directory" in line
    assert PASSWORD not in line
    assert list(tmp_path.iterdir()) == []


ON_A_SERVER = [
    ("publish", "--id", "a"),
    ("claim", "--agent", "x"),
    ("claim", "a", "--agent", "x"),
    ("complete", "a", "--agent", "x"),
    ("release", "a", "--agent", "x"),
    ("fail", "a", "--agent", "x"),
    ("renew", "a", "--agent", "x", "--lease", "1"),
    ("work", "--agent", "x", "--once", "--", "true"),
    ("show", "a"),
    ("list",),
    ("mine", "--agent", "x"),
    ("why", "a"),
    ("pause",),
    ("resume",),
    ("status",),
    ("recover",),
    ("retry", "--all"),
    ("prune", "completed", "--older-than", "1"),
]
DOWN = f"postgresql://joe:{PASSWORD}@127.0.0.1:1/db?schema=s"


@pytest.mark.parametrize("command", ON_A_SERVER, ids=" ".join)
def test_a_server_that_is_down_is_one_line_and_a_status(command):
    place = command.index("--") if "--" in command else len(command)
    status, line = refusal(*command[:place], "--pool", DOWN, *command[place:])
    assert status == 7
    assert line.startswith("postgresql://joe@127.0.0.1:1/db")
    assert PASSWORD not in line


def test_a_migration_to_a_server_that_is_down_leaves_all_where_it_is(tmp_path):
    answer("publish", "--id", "a", "--pool", tmp_path / "pool")
    status, line = refusal("migrate", "--from", tmp_path / "pool", "--to", DOWN)
    assert (status, PASSWORD in line) == (7, False)
    assert answer("list", "--pool", tmp_path / "pool")["task_id"] == "a"


def test_the_doctor_says_that_the_server_is_down():
    result = fastclaim("doctor", "--pool", DOWN)
    assert (result.returncode, result.stderr) == (1, "")
    findings = map(json.loads, result.stdout.splitlines())
    (problem,) = (finding for finding in findings if finding["level"] == "error")
    assert "refused" in problem["message"]
    assert PASSWORD not in result.stdout

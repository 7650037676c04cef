"""The commands that agents use, as processes: what they do to a pool, and what they answer."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastclaim import TaskPool

from .commands import answer, answers, environment, fastclaim, on_a_terminal, python_path, refusal


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The directory of a pool that is there, and empty."""
    return Path(TaskPool(tmp_path / "pool").base_dir)


def states(base: Path) -> dict[str, str]:
    """Each task's state."""
    pool = TaskPool(base)
    return {task["task_id"]: state for state in pool.counts() for task in pool.tasks(state)}


# Publishing ---------------------------------------------------------------------------------------


def test_a_task_is_published_from_options(base):
    options = ["--id", "x", "--description", "Do it", "--require", "python", "--require", "c"]
    options += ["--priority", "2.5", "--blocked-by", "y", "--exclusive", "db", "--max-attempts", 4]
    options += ["--field", 'constraints={"deadline": 5}', "--field", "note=plain text"]
    assert answer("publish", *options, "--pool", base) == {"published": 1, "ignored": 0}
    (task,) = TaskPool(base).tasks()
    assert {name: task[name] for name in task if name not in ("fastclaim", "status")} == {
        "task_id": "x",
        "description": "Do it",
        "requirements": ["python", "c"],
        "priority": 2.5,
        "blocked_by": ["y"],
        "exclusive": ["db"],
        "max_attempts": 4,
        "constraints": {"deadline": 5},
        "note": "plain text",
    }


def test_a_file_is_published_and_so_is_the_standard_input(base, tmp_path):
    file = tmp_path / "tasks.jsonl"
    file.write_text('{"task_id": "a"}\n\n{"task_id": "b"}\n')
    assert answer("publish", file, "--pool", base)["published"] == 2
    assert answer("publish", "-", "--pool", base, input='{"task_id": "c"}')["published"] == 1
    assert states(base) == dict.fromkeys("abc", "available")


def test_a_known_task_is_refused_ignored_or_replaced(base):
    publish = ["publish", "--id", "a", "--pool", base]
    answer(*publish, "--priority", 1)
    assert refusal(*publish) == (1, "task 'a' exists already")
    assert answer(*publish, "--if-exists", "ignore") == {"published": 0, "ignored": 1}
    assert answer(*publish, "--if-exists", "replace")["published"] == 1
    (task,) = TaskPool(base).tasks()
    assert "priority" not in task


BAD_FILE = (
    '{"task_id": "a"}\nnot json\n{"task_id": "b/c"}\n{"task_id": "known"}\n{"task_id": "d"}\n'
)


def test_of_a_file_with_a_bad_line_nothing_is_published(base):
    status, line = refusal("publish", "-", "--pool", base, input=BAD_FILE)
    assert status == 5
    assert line.startswith("standard input:2: not JSON: ")
    assert states(base) == {}


def test_of_a_file_with_a_task_that_the_pool_refuses_nothing_is_published(base):
    lines = BAD_FILE.splitlines(keepends=True)
    status, line = refusal("publish", "-", "--pool", base, input=lines[0] + lines[2])
    assert (status, line) == (5, "standard input:2: task id 'b/c': contains '/'")
    assert states(base) == {}


def test_keep_going_publishes_the_rest_and_names_each_bad_line(base):
    TaskPool(base).publish("known")
    result = fastclaim("publish", "-", "--keep-going", "--pool", base, input=BAD_FILE)
    assert result.returncode == 5
    assert json.loads(result.stdout) == {"published": 2, "ignored": 0, "refused": 3}
    assert [line.split(": ")[1] for line in result.stderr.splitlines()] == [
        "standard input:2",
        "standard input:3",
        "standard input:4",
    ]
    assert set(states(base)) == {"a", "d", "known"}


CIRCLES = [
    {"task_id": "good", "blocked_by": ["c1"]},
    {"task_id": "c1", "blocked_by": ["c2"]},
    {"task_id": "c2", "blocked_by": ["c3", "good2"]},
    {"task_id": "c3", "blocked_by": ["c1"]},
    {"task_id": "good2", "blocked_by": []},
    {"task_id": "d1", "blocked_by": "d2"},
    {"task_id": "d2", "blocked_by": ["d1"]},
    {"task_id": "self", "blocked_by": ["self"]},
    {"task_id": "odd", "blocked_by": 1.5},
]


def test_keep_going_publishes_no_circle_and_names_each_task_of_one(base):
    lines = "\n".join(map(json.dumps, CIRCLES))
    result = fastclaim("publish", "-", "--keep-going", "--pool", base, input=lines)
    assert (result.returncode, set(states(base))) == (5, {"good", "good2"})
    assert json.loads(result.stdout) == {"published": 2, "ignored": 0, "refused": 7}
    said = sorted(line.removeprefix("fastclaim publish: ") for line in result.stderr.splitlines())
    assert said[:5] == [
        "standard input:2: task 'c1' waits for itself: c1 after c2 after c3 after c1",
        "standard input:3: task 'c2' waits for itself: c2 after c3 after c1 after c2",
        "standard input:4: task 'c3' waits for itself: c3 after c1 after c2 after c3",
        "standard input:6: task 'd1' waits for itself: d1 after d2 after d1",
        "standard input:7: task 'd2' waits for itself: d2 after d1 after d2",
    ]
    assert [line.partition(": ")[0] for line in said[5:]] == [
        "standard input:8",
        "standard input:9",
    ]


def test_a_file_with_a_known_task_is_refused_with_what_publishes_the_others(base):
    TaskPool(base).publish("known")
    lines = '{"task_id": "a"}\n{"task_id": "known"}\n'
    status, said = refusal("publish", "-", "--pool", base, input=lines)
    assert status == 1
    assert said == (
        "standard input:2: task 'known' exists already; --if-exists ignore publishes the others"
    )
    assert answer("publish", "-", "--if-exists", "ignore", "--pool", base, input=lines) == {
        "published": 1,
        "ignored": 1,
        "refused": 0,
    }


MANY = 30_000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("how", [[], ["--keep-going"]], ids=["at once", "one by one"])
def test_an_interrupted_publication_says_how_to_go_on(base, tmp_path, number, how):
    file = tmp_path / "tasks.jsonl"
    file.write_text("".join(f'{{"task_id": "t{n}"}}\n' for n in range(MANY)))
    command = ["publish", str(file), *how, "--pool", str(base)]
    with subprocess.Popen(
        [sys.executable, "-m", "fastclaim", *command],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while not any((base / "tasks").rglob("*t1*")):
            assert process.poll() is None
        process.send_signal(number)
        said, complaint = process.communicate()
    assert (process.returncode, said) == (128 + number, "")
    assert complaint == (
        "fastclaim publish: interrupted; some tasks may be published: the same command with"
        " --if-exists ignore publishes the rest\n"
    )
    before = TaskPool(base).counts()["available"]
    assert before < MANY
    rest = answer(*command, "--if-exists", "ignore")
    assert (rest["published"], rest["ignored"]) == (MANY - before, before)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "[NaN]"])
def test_what_only_python_calls_json_is_text_and_never_answered_as_json(base, number):
    options = ["--field", f"x={number}", "--pool", base]
    answer("publish", "--id", "a", *options)
    answer("claim", "a", "--agent", "x", "--pool", base)
    answer("complete", "a", "--agent", "x", f"--result={number}", "--pool", base)
    work = ["work", "--agent", "x", "--once", "--pool", base, "--", "echo", number]
    answer("publish", "--id", "b", *options)
    answer(*work)
    for task_id in "ab":
        task = answer("show", task_id, "--pool", base)
        assert (task["x"], task["result"]) == (number, number)


@pytest.mark.parametrize("number", ["1e400", "-Infinity", "[" * 100_000])
def test_a_priority_without_an_end_is_a_usage_error(base, number):
    result = fastclaim("publish", "--id", "a", f"--priority={number}", "--pool", base)
    assert (result.returncode, states(base)) == (2, {})
    assert "is not a number (see" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "either a file of tasks (-: the standard input), or --id"),
        (["tasks.jsonl", "--id", "a"], "either a file of tasks (-: the standard input), or --id"),
        (["tasks.jsonl", "--priority", "1"], "a task's fields come with --id, not with a file"),
        (
            ["--id", "a", "--priority", "1", "--field", "priority=2"],
            "--priority and --field priority=... both give the task's priority",
        ),
        (
            ["--id", "a", "--field", "task_id=b"],
            "--id and --field task_id=... both give the task's task_id",
        ),
        (
            ["--id", "a", "--field", "n=1", "--field", "n=2"],
            "--field n=... and --field n=... both give the task's n",
        ),
        (["nowhere.jsonl"], "nowhere.jsonl: No such file or directory"),
        (["/"], "/: Is a directory"),
        (["/dev/null"], "/dev/null: no tasks in it"),
    ],
)
def test_a_publication_of_nothing_sensible_is_a_usage_error(base, arguments, reason):
    assert refusal("publish", *arguments, "--pool", base) == (2, reason)


@pytest.mark.parametrize(
    "option",
    [
        ("--priority", "high"),
        ("--priority", "NaN"),
        ("--priority", "true"),
        ("--max-attempts", "0"),
        ("--field", "x"),
        ("--field", "=1"),
        ("--blocked-by", ""),
    ],
)
def test_a_field_that_makes_no_sense_is_a_usage_error(base, option):
    result = fastclaim("publish", "--id", "a", *option, "--pool", base)
    assert (result.returncode, states(base)) == (2, {})


def test_a_field_of_the_pools_own_is_refused(base):
    reason = "the field 'owner' is the pool's own: give it another name"
    assert refusal("publish", "--id", "a", "--field", "owner=me", "--pool", base) == (5, reason)
    assert states(base) == {}


# Claiming -----------------------------------------------------------------------------------------


def test_a_claim_prints_the_task_and_outlives_the_command(base):
    TaskPool(base).publish("a", "Do it", priority=1)
    task = answer("claim", "a", "--agent", "x", "--pool", base)
    assert (task["task_id"], task["claimed_by"], task["priority"]) == ("a", "x", 1)
    claim = {"status", "claimed_by", "claimed_at", "claim_token"}
    assert task.keys() == claim | {"task_id", "description", "priority"}
    assert answer("show", "a", "--pool", base) == task
    assert answer("list", "--state", "claimed", "--pool", base) == task
    # Nobody takes it back because the process that claimed it has ended.
    assert refusal("claim", "--agent", "y", "--pool", base) == (1, "nothing to claim")
    assert states(base) == {"a": "claimed"}


def test_the_next_task_is_the_most_urgent_that_suits(base):
    pool = TaskPool(base)
    pool.publish("low", priority=1)
    pool.publish("high", priority=2)
    pool.publish("other", priority=3, requirements=["cobol"])
    task = answer("claim", "--agent", "x", "--capability", "python", "--pool", base)
    assert task["task_id"] == "high"


def test_a_claim_that_waits_gets_what_is_published_meanwhile(base):
    command = [sys.executable, "-m", "fastclaim", "claim", "--agent", "x", "--wait", "inf"]
    with subprocess.Popen(
        [*command, "--pool", base], env=environment(), stdout=subprocess.PIPE
    ) as process:
        TaskPool(base).publish("late")
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["task_id"] == "late"
    assert process.returncode == 0


def test_a_lease_is_kept_with_the_claim_and_can_be_prolonged(base):
    TaskPool(base).publish("a")
    before_s = time.time()
    task = answer("claim", "a", "--agent", "x", "--lease", "10m", "--pool", base)
    assert before_s + 600 <= task["lease_expires_at"] <= time.time() + 600
    renewed = answer("renew", "a", "--agent", "x", "--lease", "2h", "--pool", base)
    assert renewed["lease_expires_at"] >= before_s + 7200
    (task,) = TaskPool(base).tasks("claimed")
    assert task["lease_expires_at"] == renewed["lease_expires_at"]


def test_a_claim_whose_lease_is_over_is_given_back_by_recovery(base):
    TaskPool(base).publish("a")
    answer("claim", "a", "--agent", "x", "--lease", "0.001", "--pool", base)
    assert answer("recover", "--pool", base)["returned"] == ["a"]
    task = answer("claim", "--agent", "y", "--pool", base)
    assert (task["task_id"], task["claimed_by"], task["attempts"]) == ("a", "y", 1)


# What becomes of a claim --------------------------------------------------------------------------


@pytest.fixture
def claimed(base: Path) -> Path:
    """A pool in which x has a."""
    TaskPool(base).publish("a")
    answer("claim", "a", "--agent", "x", "--pool", base)
    return base


@pytest.mark.parametrize(
    ("given", "result"),
    [
        ([], None),
        (["--result", '{"commit": "4f2c1e"}'], {"commit": "4f2c1e"}),
        (["--result", "4f2c1e"], "4f2c1e"),
        (["--result", ""], ""),
    ],
)
def test_a_task_is_completed_with_json_or_text(claimed, given, result):
    said = answer("complete", "a", "--agent", "x", *given, "--pool", claimed)
    assert said == {"task_id": "a", "state": "completed"}
    (task,) = TaskPool(claimed).tasks("completed")
    assert task["result"] == result


def test_a_result_can_come_from_the_standard_input(claimed):
    answer("complete", "a", "--agent", "x", "--result", "-", "--pool", claimed, input="[1,\n2]\n")
    (task,) = TaskPool(claimed).tasks("completed")
    assert task["result"] == [1, 2]


def test_a_released_task_is_available_again(claimed):
    said = answer("release", "a", "--agent", "x", "--pool", claimed)
    assert said == {"task_id": "a", "state": "available"}
    assert states(claimed) == {"a": "available"}


def test_a_task_that_is_released_for_later_is_not_claimable_now(claimed):
    answer("release", "a", "--agent", "x", "--after", "1h", "--pool", claimed)
    assert refusal("claim", "--agent", "y", "--pool", claimed) == (1, "nothing to claim")


def test_a_failed_attempt_is_written_down(claimed):
    said = answer("fail", "a", "--agent", "x", "--error", "no disk", "--pool", claimed)
    assert said == {"task_id": "a", "state": "available"}
    (task,) = TaskPool(claimed).tasks()
    assert (task["attempts"], task["failures"][0]["error"]) == (1, "no disk")


def test_after_the_last_attempt_a_task_has_failed_and_can_be_retried(base):
    TaskPool(base).publish("a", max_attempts=1)
    answer("claim", "a", "--agent", "x", "--pool", base)
    assert answer("fail", "a", "--agent", "x", "--pool", base)["state"] == "failed"
    assert answer("show", "a", "--pool", base)["status"] == "failed"
    assert answer("retry", "a", "--pool", base) == {"retried": 1}
    assert states(base) == {"a": "available"}
    assert refusal("retry", "a", "--pool", base)[0] == 1
    assert refusal("retry", "b", "--pool", base) == (4, "no task 'b' in the pool")
    assert answer("retry", "--all", "--pool", base) == {"retried": 0}


def test_what_cannot_be_retried_is_told_and_in_nobodys_way(base):
    pool = TaskPool(base, max_attempts=1)
    for task_id in "abc":
        pool.publish(task_id)
        pool.claim(task_id, "x").fail("no disk")
    pool.publish("b", if_exists="replace")
    (base / "tasks" / "failed" / "c_failed.json").write_text("[]")
    result = fastclaim("retry", "--all", "--pool", base)
    assert result.returncode in (1, 5)
    assert json.loads(result.stdout) == {"retried": 1, "refused": 2}
    lines = sorted(result.stderr.splitlines())
    assert lines[0].startswith("fastclaim retry: failed task 'c' is not a JSON object")
    assert lines[1] == "fastclaim retry: task 'b' was published again"
    assert states(base)["a"] == "available"


@pytest.mark.parametrize("verb", ["complete", "release", "fail", "renew"])
def test_a_claim_that_is_somebody_elses_is_left_alone(claimed, verb):
    lease = ["--lease", "1"] if verb == "renew" else []
    status, line = refusal(verb, "a", "--agent", "y", *lease, "--pool", claimed)
    assert status == 6
    assert "'x'" in line
    assert states(claimed) == {"a": "claimed"}


def test_a_claim_is_told_from_a_later_one_by_its_token(claimed):
    status, _ = refusal("complete", "a", "--agent", "x", "--token", "0-0", "--pool", claimed)
    assert (status, states(claimed)) == (6, {"a": "claimed"})
    (task,) = TaskPool(claimed).tasks("claimed")
    answer("complete", "a", "--agent", "x", "--token", task["claim_token"], "--pool", claimed)


def test_agent_and_task_can_come_from_the_environment(claimed):
    variables = {"FASTCLAIM_AGENT": "x", "FASTCLAIM_TASK_ID": "a", "A2A_BASE_DIR": str(claimed)}
    assert answer("mine", **variables)["task_id"] == "a"
    assert answer("complete", **variables)["task_id"] == "a"


def test_a_text_that_is_empty_is_a_result_and_no_input_is_none(base):
    pool = TaskPool(base)
    given = {"a": ["--result", ""], "b": ["--result", " "], "c": ["--result", "-"], "d": []}
    for task_id, result in given.items():
        pool.publish(task_id)
        pool.claim(task_id, "x", bind=False)
        answer("complete", task_id, "--agent", "x", *result, "--pool", base, input="")
    found = {task["task_id"]: task["result"] for task in pool.tasks("completed")}
    assert found == {"a": "", "b": " ", "c": None, "d": None}


@pytest.mark.parametrize("choice", [["--capability", "python"], ["--order", "priority"]])
def test_a_task_that_is_named_is_not_to_be_chosen_too(base, choice):
    TaskPool(base).publish("a")
    status, line = refusal("claim", "a", "--agent", "x", *choice, "--pool", base)
    assert (status, line.startswith("--capability and --order choose a task")) == (2, True)
    assert states(base) == {"a": "available"}


# Looking ------------------------------------------------------------------------------------------


def test_a_task_is_shown_wherever_it_is(claimed):
    assert answer("show", "a", "--pool", claimed)["status"] == "claimed"
    answer("complete", "a", "--agent", "x", "--pool", claimed)
    assert answer("show", "a", "--pool", claimed)["status"] == "completed"
    TaskPool(claimed).publish("a", if_exists="replace")
    found = answers("show", "a", "--pool", claimed)
    assert [task["status"] for task in found] == ["available", "completed"]


def test_the_state_that_is_shown_is_the_directorys(base):
    (base / "tasks" / "available" / "hand.json").write_text('{"task_id": "hand"}')
    assert answer("show", "hand", "--pool", base) == {"task_id": "hand", "status": "available"}


def test_tasks_are_listed_by_state(claimed):
    TaskPool(claimed).publish_many([{"task_id": f"t{n}"} for n in range(3)])
    assert {task["task_id"] for task in answers("list", "--pool", claimed)} == {"t0", "t1", "t2"}
    assert len(answers("list", "--limit", 2, "--pool", claimed)) == 2
    (task,) = answers("list", "--state", "claimed", "--pool", claimed)
    assert task["task_id"] == "a"
    assert answers("list", "--state", "completed", "--pool", claimed) == []


def test_tasks_are_listed_as_they_are_claimed_or_since_when_they_are_where_they_are(base):
    pool = TaskPool(base)
    now_s = time.time()
    for number, name in enumerate(["second", "third", "urgent", "last"]):
        priority = {"urgent": 5, "last": -1}.get(name, 0)
        pool.publish(name, created_at=now_s + number, priority=priority)
    in_order = [claim.task_id for claim in pool.claim_many("a", 9)]
    assert in_order == ["urgent", "second", "third", "last"]

    def listed(*options):
        return [task["task_id"] for task in answers("list", *options, "--pool", base)]

    assert listed("--state", "claimed") == in_order
    for name in sorted(in_order):
        pool.release(name, "a")
    assert listed() == in_order
    assert listed("--limit", 2) == in_order[:2]
    for name in in_order:
        pool.claim(name, "a").complete()
    assert listed("--state", "completed") == in_order[::-1]


def test_an_agent_is_told_what_it_has(claimed):
    assert answer("mine", "--agent", "x", "--pool", claimed)["task_id"] == "a"
    assert answers("mine", "--agent", "y", "--pool", claimed) == []


def test_why_says_why(claimed):
    TaskPool(claimed).publish("b", blocked_by=["a"])
    said = answer("why", "b", "--pool", claimed)
    assert said["task_id"] == "b"
    assert "waits for a" in said["why"]


# Pause, recovery, pruning -------------------------------------------------------------------------


def test_while_a_pool_is_paused_nothing_is_claimed(base):
    TaskPool(base).publish("a")
    said = answer("pause", "--reason", "deploy", "--pool", base)
    assert said == {"paused": True, "until": None, "reason": "deploy"}
    status, line = refusal("claim", "a", "--agent", "x", "--pool", base)
    assert status == 1
    assert "deploy" in line
    nothing = "nothing to claim: the pool is paused until somebody resumes it: deploy"
    assert refusal("claim", "--agent", "x", "--pool", base) == (1, nothing)
    assert "deploy" in answer("status", "--pool", base)["paused"]
    assert answer("resume", "--pool", base) == {"paused": False}
    answer("claim", "a", "--agent", "x", "--pool", base)


def test_claims_without_a_process_are_recovered_by_age(claimed):
    assert answers("recover", "--pool", claimed)
    assert states(claimed) == {"a": "claimed"}
    answer("recover", "--older-than", "0", "--dry-run", "--pool", claimed)
    assert states(claimed) == {"a": "claimed"}
    answer("recover", "--older-than", "0", "--pool", claimed)
    assert states(claimed) == {"a": "available"}


def test_pruning_only_names_what_it_would_remove_unless_told_otherwise(claimed):
    answer("complete", "a", "--agent", "x", "--pool", claimed)
    prune = ["prune", "completed", "--older-than", "0", "--pool", claimed]
    assert answers(*prune) == [{"task_id": "a", "removed": False}]
    assert states(claimed) == {"a": "completed"}
    assert answers(*prune, "--yes") == [{"task_id": "a", "removed": True}]
    assert states(claimed) == {}


# For people ---------------------------------------------------------------------------------------


def test_on_a_terminal_people_get_sentences_and_tables(claimed):
    TaskPool(claimed).publish("b", "First line\nsecond", priority=3)
    status, shown = on_a_terminal("list", "--pool", claimed)
    assert status == 0
    assert re.search(r"^ ?task +priority +agent +since +attempts +description", shown, re.M)
    assert re.search(r"^ ?b +3 .*First line", shown, re.M)
    assert "second" not in shown
    status, shown = on_a_terminal("complete", "a", "--agent", "x", "--pool", claimed)
    assert (status, shown.strip()) == (0, "✓ completed 'a'")


def test_an_id_is_never_cut_off_on_a_terminal(base):
    pool, task_id = TaskPool(base), "port-the-exporter-to-the-new-api-0001"
    pool.publish(task_id, "Words that go on for longer than there is room in a line")
    pool.publish("q" * 100)
    _, shown = on_a_terminal("list", "--limit", 1, "--pool", base, COLUMNS="80")
    assert f" {task_id} " in shown
    _, shown = on_a_terminal("list", "--pool", base, COLUMNS="80")
    assert (shown.count("q"), "…" in shown) == (100, False)


def test_a_path_is_never_cut_off_on_a_terminal(tmp_path):
    base = tmp_path / "-".join(["deep"] * 30)
    TaskPool(base)
    _, shown = on_a_terminal("status", "--pool", base, COLUMNS="80")
    assert str(base) in re.sub(r"\s", "", shown)
    assert "…" not in shown


def test_on_a_terminal_people_see_why_tasks_failed_and_when(base):
    pool = TaskPool(base, max_attempts=2)
    pool.publish("a", "Do it")
    for error in ("no disk", "no network\nat all"):
        pool.claim("a", "x").fail(error)
    _, shown = on_a_terminal("list", "--state", "failed", "--pool", base)
    assert re.search(r"attempts +last error +description", shown)
    assert re.search(r"2 +no network +Do it", shown)
    _, shown = on_a_terminal("show", "a", "--pool", base)
    today = time.strftime("%Y-%m-%d")
    assert re.search(rf"failure +no disk +{today} \d\d:\d\d:\d\d, x\s", shown)
    assert re.search(rf"failure +no network\\nat all +{today} ", shown)
    assert '"at"' not in shown


def test_failures_of_another_hand_are_shown_as_they_are(base):
    task = '{"task_id": "a", "failures": ["odd", {"at": "once"}]}'
    (base / "tasks" / "available" / "a.json").write_text(task)
    _, shown = on_a_terminal("show", "a", "--pool", base)
    assert '["odd", {"at": "once"}]' in shown


def test_on_a_terminal_the_doctor_tells_warnings_from_errors(base):
    TaskPool(base).pause()
    _, shown = on_a_terminal("doctor", "--pool", base)
    assert "✗ warning: pause: the pool is paused" in shown
    (base / "file").touch()
    status, shown = on_a_terminal("doctor", "--pool", base / "file")
    assert (status, "✗ error: tasks: cannot be read" in shown) == (1, True)


def test_json_can_be_had_on_a_terminal_too(claimed):
    _, shown = on_a_terminal("show", "a", "--json", "--pool", claimed)
    assert json.loads(shown)["task_id"] == "a"


def test_what_a_terminal_would_obey_is_shown_escaped(base):
    task = {"task_id": "a\x1b[2J", "description": "two\nlines\x07", "name\x07": 1}
    TaskPool(base).publish(task)
    work = ["work", "--agent", "x", "--once", "--max-attempts", "1", "--"]
    looks = [["list"], ["show", "a\x1b[2J"], ["status"], ["doctor"]]
    for command in (*looks, [*work, "false"], ["retry", "--all"], [*work, "true"]):
        status, shown = on_a_terminal(*command, A2A_BASE_DIR=f"{base}", TERM="dumb")
        assert status == 0
        assert "a\\x1b[2J" in shown or command in (["doctor"], ["retry", "--all"])
        assert "\x1b[2J" not in shown
        assert "\x07" not in shown


def test_letters_that_the_terminals_encoding_lacks_are_escaped(base):
    TaskPool(base).publish("Zoë")
    status, shown = on_a_terminal("list", "--pool", base, PYTHONIOENCODING="ascii")
    assert status == 0
    assert "Zo\\xeb" in shown


def test_without_rich_there_is_plain_text(claimed, tmp_path):
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich" / "__init__.py").write_text("raise ImportError('no rich')")
    for command in ("list", "status", "doctor"):
        status, shown = on_a_terminal(command, "--pool", claimed, PYTHONPATH=python_path(tmp_path))
        assert status == 0
        assert "\x1b" not in shown


@pytest.mark.parametrize("named_by", ["agent", "pause", "dependency", "error"])
def test_why_obeys_nobody_and_takes_one_line(base, named_by):
    evil = "e\x1b[2Jv\ni\rl"
    pool = TaskPool(base, max_attempts=1)
    pool.publish("a", **({"blocked_by": [evil]} if named_by == "dependency" else {}))
    if named_by == "agent":
        answer("claim", "a", "--agent", evil, "--pool", base)
    elif named_by == "pause":
        pool.pause(reason=evil)
    elif named_by == "error":
        pool.claim("a", "x").fail(evil)
    status, shown = on_a_terminal("why", "a", "--pool", base, TERM="dumb")
    assert status == 0
    assert "e\\x1b[2Jv\\ni\\rl" in shown
    (_,) = shown.splitlines()
    assert shown.rstrip("\n").isprintable()

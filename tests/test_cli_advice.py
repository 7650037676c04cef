"""What the command advises can be pasted into a shell, and acts on the pool that is meant."""

from __future__ import annotations

import json
import os
import re
import shlex
from argparse import Namespace
from pathlib import Path

import pytest

from fastclaim import AlreadyClaimed, TaskPool, diagnosis
from fastclaim.cli import advice

from .commands import answer, fastclaim, refusal


@pytest.fixture
def pool(tmp_path: Path) -> TaskPool:
    """A pool whose path has to be quoted, and whose tasks have one attempt."""
    return TaskPool(tmp_path / "the team's pool", max_attempts=1)


def pasted(text: str) -> list[str]:
    """The words of the only command in backquotes, but for `fastclaim` itself."""
    (command,) = re.findall("`(.*)`", text)
    name, *words = shlex.split(command)
    assert name == "fastclaim"
    return words


def advised(pool: TaskPool, check: str) -> str:
    """What the doctor advises about a pool that --pool names, another one being the default."""
    elsewhere = f"{pool.base_dir}-elsewhere"
    result = fastclaim("doctor", "--pool", pool.base_dir, A2A_BASE_DIR=elsewhere)
    found = [json.loads(line) for line in result.stdout.splitlines()]
    return next(f"{finding['advice']}" for finding in found if finding["check"] == check)


def test_what_the_doctor_advises_acts_on_the_pool_that_it_was_asked_about(pool):
    pool.pause()
    answer(*pasted(advised(pool, "pause")))
    assert pool.paused() is None
    pool.publish("x")
    pool.claim("x", "a").fail("no")
    pool.publish("y", blocked_by=["x"])
    assert answer(*pasted(advised(pool, "blocked"))) == {"retried": 1}


def test_advice_about_the_default_pool_names_none():
    assert advice.in_commands("run resume()", Namespace(pool=None)) == "run `fastclaim resume`"


def test_advice_about_a_database_does_not_give_its_password_away():
    arguments = Namespace(pool="postgresql://joe:s3cret@host/db?schema=s")
    said = "run `fastclaim resume --pool 'postgresql://joe@host/db?schema=s'`"
    assert advice.in_commands("run resume()", arguments) == said


def test_where_to_keep_a_pool_is_not_said_by_a_variable_that_does_not_count(pool, monkeypatch):
    monkeypatch.setattr(diagnosis.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(diagnosis.os.path, "realpath", lambda path: "/tmp/x")
    (finding,) = (each for each in pool.doctor() if each.check == "clean-up")
    assert finding.advice == "keep the pool in a directory elsewhere, or exempt this one"


def test_why_a_task_failed_comes_with_the_command_that_brings_it_back(pool):
    pool.publish("f 1")
    pool.claim("f 1", "a").fail("retry_failed() went wrong, recover() too")
    said = answer("why", "f 1", "--pool", pool.base_dir)["why"]
    assert said.startswith("task 'f 1' has failed for good (`fastclaim retry 'f 1' --pool ")
    assert said.endswith("` brings it back): retry_failed() went wrong, recover() too")
    assert answer(*pasted(said)) == {"retried": 1}


def test_why_a_task_waits_for_one_that_failed_comes_with_the_command_that_helps(pool):
    pool.publish("f")
    pool.publish("y", blocked_by=["f"])
    pool.claim("f", "a").fail("no")
    said = answer("why", "y", "--pool", pool.base_dir)["why"]
    assert said.startswith("task 'y' waits for f (failed for good; see `fastclaim retry f --pool ")
    assert answer(*pasted(said)) == {"retried": 1}
    assert said.endswith("`)")


def half_claim(pool: TaskPool) -> None:
    text = '{"task_id": "h", "status": "claimed"}'
    (Path(pool.base_dir) / "tasks" / "available" / "h.json").write_text(text)


def test_a_task_that_nobody_holds_and_nobody_can_claim_is_mended_by_what_is_advised(pool):
    half_claim(pool)
    status, said = refusal("claim", "h", "--agent", "a", "--pool", pool.base_dir)
    assert (status, "None" in said) == (1, False)
    assert said.startswith("task 'h' stands in available/ with the status 'claimed', which `")
    assert answer("why", "h", "--pool", pool.base_dir)["why"] == said
    answer(*pasted(said))
    assert answer("claim", "h", "--agent", "a", "--pool", pool.base_dir)["claimed_by"] == "a"


def test_python_is_told_of_such_a_task_in_python(pool):
    half_claim(pool)
    with pytest.raises(AlreadyClaimed, match=r"which recover\(\) puts right") as refused:
        pool.claim("h", "a")
    assert refused.value.holder is None


LATE = {
    "complete": ["complete", "t", "--agent", "a"],
    "release": ["release", "t", "--agent", "a"],
    "fail": ["fail", "t", "--agent", "a"],
    "claim": ["claim", "t", "--agent", "b"],
}


@pytest.mark.parametrize("verb", LATE)
def test_whoever_is_late_is_told_that_the_task_is_completed_and_by_whom(pool, verb):
    pool.publish("t")
    pool.claim("t", "a").complete()
    status, said = refusal(*LATE[verb], "--pool", pool.base_dir)
    assert status == (1 if verb == "claim" else 6)
    assert said.endswith("; it is completed by 'a'")


@pytest.mark.parametrize("verb", LATE)
def test_whoever_is_late_is_told_that_the_task_has_failed(pool, verb):
    pool.publish("t")
    pool.claim("t", "a").fail("no")
    assert refusal(*LATE[verb], "--pool", pool.base_dir)[1].endswith("; it has failed for good")


@pytest.mark.parametrize("verb", ["complete", "release", "fail"])
def test_whoever_is_late_is_told_that_the_task_is_available(pool, verb):
    pool.publish("t")
    said = "task 't' is not claimed by 'a'; it is available"
    assert refusal(*LATE[verb], "--pool", pool.base_dir) == (6, said)


def test_a_task_that_may_not_be_claimed_yet_is_not_called_available(pool):
    pool.publish("t", not_before=4e9)
    assert "available" not in refusal(*LATE["claim"], "--pool", pool.base_dir)[1]
    pool.pause(reason="lunch")
    assert refusal(*LATE["claim"], "--pool", pool.base_dir)[1].endswith(": lunch")


def test_whoever_needs_a_key_is_told_which_task_holds_it_and_nothing_wrong(pool):
    pool.publish_many([{"task_id": name, "exclusive": ["k"]} for name in ("e1", "e2")])
    pool.claim("e1", "a", bind=False)
    _, said = refusal("claim", "e2", "--agent", "b", "--pool", pool.base_dir)
    expected = r"task 'e2' needs the key 'k', which e1 \(claimed by a since \S+\) holds"
    assert re.fullmatch(expected, said)


@pytest.mark.parametrize("field", ["not_before=3600", "requirements=python"])
def test_what_a_field_should_be_like_can_be_pasted_into_a_shell(pool, field):
    publish = ["publish", "--id", "x", "--pool", os.fspath(pool.base_dir), "--field"]
    _, said = refusal(*publish, field)
    (example,) = re.findall(r"such as (\S+?)(?:,|$)", said)
    assert answer(*publish, f"{field.partition('=')[0]}={example}")["published"] == 1

"""A file of tasks is taken whole, or refused with the line that is to blame."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastclaim.cli.demo import SAMPLE
from fastclaim.cli.exits import Refusal
from fastclaim.cli.task_file import read_task_file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.jsonl"


def test_a_line_ends_where_json_says_and_not_where_unicode_says(path):
    path.write_bytes('{"task_id": "a", "text": "one\u2028two\x0bthree"}\n{"task_id": 7}'.encode())
    with pytest.raises(Refusal, match=r":1: not JSON: "):  # a raw \x0b is not JSON
        read_task_file(path)
    path.write_bytes('{"task_id": "a", "text": "one\u2028two\u0085"}\n{"task_id": 7}'.encode())
    found = read_task_file(path)
    assert found.tasks == [{"task_id": "a", "text": "one\u2028two\u0085"}, {"task_id": 7}]
    assert found.lines == {"a": 1, "7": 2}


def test_empty_lines_are_passed_over_and_counted(path):
    path.write_bytes(b'\n  \r\n{"task_id": "a"}\r\n\n{"task_id": "b"}\n\n')
    assert read_task_file(path).lines == {"a": 3, "b": 5}


def test_a_byte_order_mark_is_no_part_of_the_first_task(path):
    path.write_bytes(b'\xef\xbb\xbf{"task_id": "a"}\n')
    assert read_task_file(path).tasks == [{"task_id": "a"}]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"task_id": "b"', "not JSON: Expecting ',' delimiter at column 16"),
        (b"not json", "not JSON: Expecting value at column 1"),
        (b'{"task_id": "b"} {}', "not JSON: Extra data at column 18"),
        (b'{"task_id": "\xff"}', "not UTF-8 at byte 14 of the line"),
        (b'{"task_id": "b", "n": ' + b"9" * 5000 + b"}", "not JSON that can be read: "),
        (b"[" * 100_000, "not JSON that can be read: "),
        (b'{"task_id": "b", "n": NaN}', "not JSON that can be read: NaN is no number in JSON"),
        (b'{"task_id": "b", "n": 1e400}', "not JSON that can be read: 1e400 is too large a number"),
        (b"[1, 2]", "not a JSON object but an array"),
        (b"null", "not a JSON object but null"),
        (b'"b"', "not a JSON object but a string"),
        (b"1.5", "not a JSON object but a number"),
        (b"true", "not a JSON object but true or false"),
        (b'{"id": "b"}', "the task has no task_id"),
        (b'{"task_id": null}', "task_id is not a string but null"),
        (b'{"task_id": {}}', "task_id is not a string but an object"),
        (b'{"task_id": "7"}', "task_id '7' stands on line 1 already"),
    ],
)
def test_a_line_that_is_no_task_is_named(path, line, reason):
    path.write_bytes(b'{"task_id": 7}\n\n' + line + b'\n{"task_id": "c"}\n')
    with pytest.raises(Refusal) as caught:
        read_task_file(path)
    assert str(caught.value).startswith(f"{path}:3: {reason}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_a_file_without_tasks_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(Refusal, match="no tasks in it"):
        read_task_file(path)


def test_the_sample_is_a_teams_plan_that_can_be_carried_out():
    tasks = read_task_file(SAMPLE).tasks
    done: set[str] = set()
    for _ in tasks:
        done |= {task["task_id"] for task in tasks if done.issuperset(task["blocked_by"])}
    assert done == {task["task_id"] for task in tasks}
    fields = ["task_id", "description", "requirements", "priority", "blocked_by", "created_at"]
    assert all(list(task) == fields for task in tasks)
    assert 50 <= len(tasks) <= 70
    assert json.dumps(tasks)

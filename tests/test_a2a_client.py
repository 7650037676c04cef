"""The client, the status, and one base directory for all that names none."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import orchestration.a2a_integration as original
import pytest

from fastclaim import InvalidName, TaskPool, a2a, layout

SURFACE = [
    "A2AClient",
    "A2AMessage",
    "AgentInfo",
    "AgentRegistry",
    "FileBasedMessaging",
    "TaskPool",
    "create_a2a_client",
    "get_a2a_status",
]


@pytest.fixture(autouse=True)
def base_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    base_dir = tmp_path / "base"
    monkeypatch.setenv("A2A_BASE_DIR", str(base_dir))
    yield base_dir
    monkeypatch.undo()
    del a2a.A2A_BASE_DIR


def test_a_client_says_whose_it_is_and_where(base_dir: Path) -> None:
    assert repr(a_client("a1")) == f"<A2AClient of 'a1' at {str(base_dir)!r}>"


def a_client(agent_id: str = "a1", capabilities: tuple[str, ...] = ("python",)) -> a2a.A2AClient:
    return a2a.create_a2a_client(agent_id, "testing", list(capabilities), "w")


# The surface --------------------------------------------------------------------------------------


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    return [
        (name, parameter.kind, parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
    ]


@pytest.mark.parametrize("name", SURFACE)
def test_signatures_are_the_originals(name: str) -> None:
    ours, theirs = getattr(a2a, name), getattr(original, name)
    # What a pool of ours can be told in addition comes after what the original takes.
    assert parameters(ours)[: len(parameters(theirs))] == parameters(theirs)
    if inspect.isclass(theirs):
        for method in vars(theirs):
            if inspect.isfunction(vars(theirs)[method]) and method != "__init__":
                assert parameters(getattr(ours, method)) == parameters(getattr(theirs, method))


@pytest.mark.parametrize("name", ["A2AMessage", "AgentInfo"])
def test_dataclasses_have_the_originals_fields(name: str) -> None:
    ours, theirs = getattr(a2a, name), getattr(original, name)
    assert [(field.name, field.default) for field in dataclasses.fields(ours)] == [
        (field.name, field.default) for field in dataclasses.fields(theirs)
    ]
    values = [f"value of {field.name}" for field in dataclasses.fields(ours)]
    assert ours(*values).to_json() == theirs(*values).to_json()
    assert ours.from_json(theirs(*values).to_json()) == ours(*values)


def test_all_public_names_can_be_imported() -> None:
    names: dict[str, Any] = {}
    exec("from fastclaim.a2a import *", names)
    assert {*SURFACE, "A2A_BASE_DIR", "install"} <= set(names)
    assert names["TaskPool"] is TaskPool


# The client ---------------------------------------------------------------------------------------


def test_a_client_is_registered_until_it_shuts_down() -> None:
    client = a_client()
    assert client.discover_agents() == [client.agent_info]
    client.update_status("busy", "t1")
    (info,) = client.discover_agents()
    assert (info.status, info.current_task) == ("busy", "t1")
    client.update_status("idle")
    assert client.discover_agents()[0].current_task is None
    assert client.heartbeat() is None
    assert client.shutdown() is None
    assert client.discover_agents() == []


def test_clients_talk() -> None:
    alice, bob = a_client("alice"), a_client("bob")
    assert alice.send_message("bob", "status", {"n": 1}) is True
    (message,) = bob.receive_messages()
    assert (message.from_agent, message.message_type, message.payload) == (
        "alice",
        "status",
        {"n": 1},
    )
    assert alice.send_message("../x", "status", {}) is False


def test_a_task_goes_from_one_client_to_the_other() -> None:
    alice, bob = a_client("alice"), a_client("bob")
    task_id = alice.publish_task("d", ["python"], {"required_capabilities": ["rust"]})
    assert [task["task_id"] for task in bob.get_available_tasks()] == [task_id]
    assert bob.get_compatible_tasks() == []
    assert bob.can_handle_task({"constraints": {}}) is True
    assert task_id is not None
    assert bob.claim_task(task_id)["claimed_by"] == "bob"
    assert alice.claim_task(task_id, timeout=0) == {}
    assert alice.complete_task(task_id, {}) is False
    assert bob.complete_task(task_id, {"done": True}) is True


def test_a_task_that_cannot_be_published_has_no_id() -> None:
    assert a_client().publish_task("d", constraints={"a": object()}) is None


@pytest.mark.parametrize("agent_id", ["../x", "/x", "", ".", "..", "nul\0", "x" * 256])
def test_a_client_whose_name_is_a_path_is_refused_and_leaves_nothing(
    agent_id: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidName):
        a_client(agent_id)
    assert list(tmp_path.iterdir()) == []


def test_the_status_tells_agents_and_tasks(base_dir: Path) -> None:
    client = a_client()
    task_id = client.publish_task("d")
    status = a2a.get_a2a_status()
    assert status == {
        "agents_online": 1,
        "available_tasks": 1,
        "a2a_directory": str(base_dir),
        "agents": [dataclasses.asdict(client.agent_info)],
        "tasks": client.task_pool.get_available_tasks(),
    }
    assert status["tasks"][0]["task_id"] == task_id


# One base directory -------------------------------------------------------------------------------


def directories() -> set[Path]:
    """What everything takes for the base directory, just now."""
    return {
        TaskPool().tasks_dir.parent,
        a2a.AgentRegistry().registry_file.parent,
        a2a.FileBasedMessaging("a1").agent_dir.parent.parent,
        Path(a2a.get_a2a_status()["a2a_directory"]),
        Path(a2a.A2A_BASE_DIR),
        Path(layout.default_base_dir()),
    }


def test_the_environment_is_read_when_something_is_constructed(
    base_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert directories() == {base_dir}
    monkeypatch.setenv("A2A_BASE_DIR", str(tmp_path / "other"))
    assert directories() == {tmp_path / "other"}
    monkeypatch.delenv("A2A_BASE_DIR")
    assert a2a.A2A_BASE_DIR == "/tmp/orchestration/a2a"


@pytest.mark.parametrize("kind", [str, Path])
def test_an_assigned_directory_comes_before_the_environment(kind: type, tmp_path: Path) -> None:
    a2a.A2A_BASE_DIR = kind(tmp_path / "assigned")
    assert directories() == {tmp_path / "assigned"}
    assert type(a2a.A2A_BASE_DIR) is type(kind(tmp_path))


def test_a_deleted_assignment_gives_the_environment_back(base_dir: Path, tmp_path: Path) -> None:
    a2a.A2A_BASE_DIR = str(tmp_path / "assigned")
    del a2a.A2A_BASE_DIR
    assert directories() == {base_dir}


def test_monkeypatch_leaves_the_environment_in_charge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(a2a, "A2A_BASE_DIR", str(tmp_path / "patched"))
        assert directories() == {tmp_path / "patched"}
        patch.setenv("A2A_BASE_DIR", str(tmp_path / "ignored"))
    monkeypatch.setenv("A2A_BASE_DIR", str(tmp_path / "later"))
    assert directories() == {tmp_path / "later"}


def test_mock_leaves_the_environment_in_charge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mock.patch("fastclaim.a2a.A2A_BASE_DIR", str(tmp_path / "patched")):
        assert directories() == {tmp_path / "patched"}
    monkeypatch.setenv("A2A_BASE_DIR", str(tmp_path / "later"))
    assert directories() == {tmp_path / "later"}


def test_mock_gives_an_assigned_directory_back(tmp_path: Path) -> None:
    a2a.A2A_BASE_DIR = str(tmp_path / "assigned")
    with mock.patch("fastclaim.a2a.A2A_BASE_DIR", str(tmp_path / "patched")):
        assert directories() == {tmp_path / "patched"}
    assert directories() == {tmp_path / "assigned"}


def test_what_is_constructed_stays_where_it_is(
    base_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = a_client()
    monkeypatch.setenv("A2A_BASE_DIR", str(tmp_path / "other"))
    monkeypatch.chdir(tmp_path)
    client.update_status("busy")
    client.send_message("bob", "status", {})
    assert not (tmp_path / "other").exists()
    assert (base_dir / "agents/bob/inbox").is_dir()


def test_a_relative_directory_does_not_follow_a_chdir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("A2A_BASE_DIR", "relative")
    client = a_client()
    os.mkdir("elsewhere")
    monkeypatch.chdir(tmp_path / "elsewhere")
    client.update_status("busy")
    client.send_message("bob", "status", {})
    assert client.publish_task("d") is not None
    assert list((tmp_path / "elsewhere").iterdir()) == []

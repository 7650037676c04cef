"""Code that was written for the original runs on every kind of pool, by one setting."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from fastclaim import InvalidName, TaskPool, a2a


@pytest.fixture(autouse=True)
def in_place(place: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("A2A_BASE_DIR", place)
    yield
    monkeypatch.undo()
    del a2a.A2A_BASE_DIR


def a_client(agent_id: str, *capabilities: str) -> a2a.A2AClient:
    return a2a.create_a2a_client(agent_id, "testing", list(capabilities), "w")


def test_the_five_methods_take_a_task_to_its_end() -> None:
    pool = TaskPool()
    assert pool.publish_task("x", "d", ["python"], {"deadline": 4e9}) is True
    (waiting,) = pool.get_available_tasks(["python", "sql"])
    assert pool.get_available_tasks(["rust"]) == []
    assert pool.validate_task_constraints(waiting, []) is True
    claimed = pool.claim_task("x", "a")
    assert claimed["constraint_enforcement"]["claimed_by"] == "a"
    assert claimed["constraint_enforcement"]["claimed_at"] == claimed["claimed_at"]
    assert claimed["claim_lock_acquired_at"] == claimed["claimed_at"]
    assert pool.get_available_tasks() == []
    assert pool.complete_task("x", "a", {"r": 1}) is True
    (task,) = pool.tasks("completed")
    assert task["result"] == {"r": 1}


def test_a_failure_is_a_value_and_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    pool = TaskPool()
    assert pool.publish_task("x", object()) is False  # type: ignore[arg-type]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert pool.claim_task("nowhere", "a") == {}
    assert pool.complete_task("nowhere", "a", {}) is False
    pool.publish_task("x", "d")
    pool.claim_task("x", "a")
    assert pool.claim_task("x", "b", timeout=0) == {}
    assert pool.claim_task("x", "a", timeout=0) == {}
    caplog.clear()
    assert pool.complete_task("x", "a", object()) is False  # type: ignore[arg-type]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert pool.complete_task("x", "a", {}) is True


def test_publishing_again_makes_a_task_claimable_again() -> None:
    pool = TaskPool()
    for description in ("one", "two"):
        assert pool.publish_task("x", description)
        assert pool.claim_task("x", "a")["description"] == description


def test_a_client_is_registered_until_it_shuts_down() -> None:
    client = a_client("a1", "python")
    assert client.discover_agents() == [client.agent_info]
    client.update_status("busy", "t1")
    (info,) = client.discover_agents()
    assert (info.status, info.current_task) == ("busy", "t1")
    assert client.heartbeat() is None
    assert client.registry.discover_agents(["rust"]) == []
    assert client.shutdown() is None
    assert client.discover_agents() == []


@pytest.mark.parametrize("agent_id", ["nobody", "x/y", "\0", "\ud800", "", None])
def test_who_was_never_registered_is_struck_off_already(agent_id: str) -> None:
    assert a2a.AgentRegistry().unregister_agent(agent_id)


def test_clients_talk() -> None:
    alice, bob, carol = a_client("alice"), a_client("bob"), a_client("carol")
    payload = {"n": 1, "text": "ä\ud800\0"}
    assert alice.send_message("bob", "status", payload) is True
    (message,) = bob.receive_messages()
    assert (message.from_agent, message.payload) == ("alice", payload)
    assert bob.receive_messages() == []
    assert alice.send_message("broadcast", "status", {}) is True
    assert [len(agent.receive_messages()) for agent in (alice, bob, carol)] == [0, 1, 1]
    assert alice.send_message("../x", "status", {}) is False


def test_messages_come_in_the_order_of_their_time() -> None:
    alice, bob = a_client("alice"), a_client("bob")
    for number in range(5):
        alice.send_message("bob", "status", {"n": number})
    assert [message.payload["n"] for message in bob.receive_messages()] == [0, 1, 2, 3, 4]


def test_a_task_goes_from_one_client_to_the_other() -> None:
    alice, bob = a_client("alice", "python"), a_client("bob", "python")
    task_id = alice.publish_task("d", ["python"], {"required_capabilities": ["rust"]})
    assert task_id is not None
    assert [task["task_id"] for task in bob.get_available_tasks()] == [task_id]
    assert bob.get_compatible_tasks() == []
    assert bob.claim_task(task_id)["claimed_by"] == "bob"
    assert alice.claim_task(task_id, timeout=0) == {}
    assert alice.complete_task(task_id, {}) is False
    assert bob.complete_task(task_id, {"done": True}) is True


@pytest.mark.parametrize("agent_id", ["../x", "/x", "", ".", "..", "nul\0", "x" * 256])
def test_a_client_whose_name_is_a_path_is_refused(agent_id: str) -> None:
    with pytest.raises(InvalidName):
        a_client(agent_id)


def test_the_status_tells_agents_and_tasks() -> None:
    client = a_client("a1")
    task_id = client.publish_task("d")
    status = a2a.get_a2a_status()
    assert (status["agents_online"], status["available_tasks"]) == (1, 1)
    assert status["tasks"][0]["task_id"] == task_id
    assert status["agents"][0]["agent_id"] == "a1"

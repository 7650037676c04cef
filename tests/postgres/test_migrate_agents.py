"""Messages and the registry move with a pool: nothing is lost, and nothing received twice."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastclaim import (
    A2AMessage,
    AgentInfo,
    AgentRegistry,
    FileBasedMessaging,
    TaskPool,
    cli,
    layout,
)
from fastclaim.postgres import migrate_agents as migration
from fastclaim.postgres.migrate_agents import migrate_agents

from .interrupted import Interrupted, interrupter
from .test_faults import LostAnswer

Places = tuple[str, str]


@pytest.fixture(params=["to the server", "to the directory"])
def places(request: pytest.FixtureRequest, tmp_path: Path, postgres_url: str) -> Iterator[Places]:
    """Where from, and where to."""
    both = (str(tmp_path / "pool"), postgres_url)
    yield both if request.param == "to the server" else both[::-1]
    layout.pin_base_dir(None)


def inbox(place: str, agent_id: str) -> FileBasedMessaging:
    layout.pin_base_dir(place)
    return FileBasedMessaging(agent_id)


def registry(place: str) -> AgentRegistry:
    layout.pin_base_dir(place)
    return AgentRegistry()


def message(number: int, to_agent: str = "bob") -> A2AMessage:
    return A2AMessage(f"m{number}", "alice", to_agent, "status", {"ü": [None]}, float(number))


def send(place: str, *numbers: int) -> None:
    for number in numbers:
        assert inbox(place, "alice").send_message(message(number))


def agent(agent_id: str, heartbeat: float) -> AgentInfo:
    return AgentInfo(agent_id, "t", ["c"], "idle", None, 1.0, heartbeat, "/w")


def test_messages_and_who_has_an_inbox_arrive(places: Places) -> None:
    come_from, go_to = places
    send(come_from, 1, 2)
    assert inbox(come_from, "bob").receive_messages() == [message(1), message(2)]
    send(come_from, 3, 4)
    assert migrate_agents(come_from, go_to) == (0, 4, [])
    assert inbox(come_from, "bob").receive_messages() == []
    assert inbox(go_to, "bob").receive_messages() == [message(3), message(4)]
    assert inbox(go_to, "carol").send_message(message(5, "broadcast"))
    assert inbox(go_to, "bob").receive_messages() == [message(5, "bob")]
    assert inbox(go_to, "alice").receive_messages() == [message(5, "alice")]
    assert migrate_agents(come_from, go_to) == (0, 0, [])
    # What was received is not received again after the way back, either.
    assert migrate_agents(go_to, come_from) == (0, 6, [])
    assert inbox(come_from, "bob").receive_messages() == []


def test_an_agent_is_moved_when_it_lives_there_no_more(places: Places) -> None:
    come_from, go_to = places
    now_s = time.time()
    assert registry(come_from).register_agent(agent("dead", 5.0))
    assert registry(come_from).register_agent(agent("alive", now_s))
    agents, _, left = migrate_agents(come_from, go_to)
    assert (agents, [what for what, _ in left]) == (1, ["agent alive"])
    assert registry(go_to)._load_registry()["dead"]["last_heartbeat"] == 5.0
    assert registry(come_from)._load_registry().keys() == {"alive"}
    # It has moved, and said so.
    assert registry(come_from).register_agent(agent("alive", 7.0))
    assert registry(go_to).register_agent(agent("alive", now_s))
    assert migrate_agents(come_from, go_to) == (1, 0, [])
    assert registry(come_from)._load_registry() == {}
    assert [found.agent_id for found in registry(go_to).discover_agents()] == ["alive"]


def test_an_agent_that_says_that_it_lives_in_mid_move_stays(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    come_from, go_to = places
    assert registry(come_from).register_agent(agent("a", 5.0))
    for side in (migration._Server, migration._Directory):
        register = side.register

        def register_late(self: object, *args: object, register: object = register) -> None:
            register(self, *args)  # type: ignore[operator]
            assert registry(come_from).update_heartbeat("a")

        monkeypatch.setattr(side, "register", register_late)
    assert migrate_agents(come_from, go_to)[0] == 0
    assert [found.agent_id for found in registry(come_from).discover_agents()] == ["a"]


STEPS = ("register", "unregister", "open_inbox", "set_apart", "deliver", "remove")


@pytest.fixture
def interrupt_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    return interrupter(monkeypatch, migration, STEPS)


@pytest.mark.parametrize("receives", [False, True], ids=["", "received in between"])
def test_an_interruption_anywhere_is_made_good_by_the_next_run(
    places: Places, interrupt_at: Callable[[int], None], receives: bool
) -> None:
    come_from, go_to = places
    for n in itertools.count(1):
        interrupt_at(0)
        send(come_from, n)
        assert inbox(come_from, "bob").receive_messages() == [message(n)]
        send(come_from, -n)
        assert registry(come_from).register_agent(agent("a", float(n)))
        interrupt_at(n)
        done = False
        received = []
        try:
            migrate_agents(come_from, go_to)
            done = True
        except Interrupted:
            pass
        interrupt_at(0)
        if receives:
            received = [m for p in places for m in inbox(p, "bob").receive_messages()]
        assert migrate_agents(come_from, go_to)[2] == []
        received += [m for p in places for m in inbox(p, "bob").receive_messages()]
        assert received == [message(-n)]
        assert registry(come_from)._load_registry() == {}
        assert registry(go_to)._load_registry()["a"]["last_heartbeat"] == float(n)
        if done:
            break
    assert n > 20


def test_what_is_no_message_is_left_and_told(tmp_path: Path, postgres_url: str) -> None:
    place = tmp_path / "pool"
    inbox(str(place), "bob")
    there = place / "agents/bob/inbox"
    (there / "torn.json").write_text('{"id": ')
    (there / "bytes.json").write_bytes(b"\xff")
    os.mkfifo(there / "fifo.json")
    (place / "agents" / os.fsdecode(b"\xff")).mkdir()
    (place / "registry.json").write_text(json.dumps({"..": {}, "list": []}))
    agents, messages, left = migrate_agents(place, postgres_url)
    assert (agents, messages) == (0, 0)
    told = dict(left)
    assert told.keys() == {
        "agent ..",
        "agent list",
        "message torn.json for bob",
        "message bytes.json for bob",
        "message fifo.json for bob",
        "inbox of '\\udcff'",
    }
    (place / "registry.json").write_text("{")
    assert migrate_agents(place, postgres_url)[2][0][0] == "the registry"
    assert (there / "torn.json").exists()


def test_another_message_of_the_same_name_is_left_and_told(places: Places) -> None:
    come_from, go_to = places
    send(come_from, 1)
    other = message(1)
    other.payload = {"other": True}
    assert inbox(go_to, "alice").send_message(other)
    assert [what for what, _ in migrate_agents(come_from, go_to)[2]] == [
        "message 1.0_alice_m1.json for bob"
    ]
    assert inbox(go_to, "bob").receive_messages() == [other]
    assert inbox(come_from, "bob").receive_messages() == [message(1)]


def test_a_lost_answer_leaves_nothing_behind(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, words in enumerate(("SET received_at", "SET info = NULL", "DELETE")):
        send(postgres_url, number)
        assert registry(postgres_url).register_agent(agent("a", 5.0))
        with monkeypatch.context() as patch:
            loss = LostAnswer(patch, words)
            assert migrate_agents(postgres_url, tmp_path)[2] == []
            assert loss.lost == 1
        assert inbox(str(tmp_path), "bob").receive_messages() == [message(number)]
        assert migrate_agents(postgres_url, tmp_path) == (0, 0, [])


def test_a_run_the_other_way_does_not_hide_what_an_interrupted_one_has_set_apart(
    places: Places, interrupt_at: Callable[[int], None]
) -> None:
    come_from, go_to = places
    send(come_from, 1)
    for n in itertools.count(1):
        interrupt_at(n)
        try:
            migrate_agents(come_from, go_to)
        except Interrupted:
            interrupt_at(0)
            left = migrate_agents(go_to, come_from)[2]
            assert all("finish that run" in reason for _, reason in left)
            assert migrate_agents(come_from, go_to)[2] == []
            assert migrate_agents(go_to, come_from)[2] == []
            continue
        break
    assert inbox(go_to, "bob").receive_messages() == [message(1)]


def test_the_command_moves_messages_and_agents_and_tells_of_a_pause(
    tmp_path: Path, postgres_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(tmp_path / "pool")
    TaskPool(place).pause(reason="moving")
    send(place, 1)
    assert registry(place).register_agent(agent("bob", time.time()))
    layout.pin_base_dir(None)
    command = ["migrate", "--from", place, "--to", postgres_url]
    assert cli.main(command) == 1
    out = capsys.readouterr().out
    assert "moved 0 tasks, 1 message and 0 agents" in out
    assert "is paused" in out
    assert "agent bob: it lives there" in out

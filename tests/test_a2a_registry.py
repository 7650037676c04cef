"""The registry: no change is lost, no reader sees a part, no name leads out of it."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fastclaim.registry
from fastclaim import layout
from fastclaim.registry import AgentInfo, AgentRegistry

from .dying import deaths

PROCESSES, AGENTS_EACH = 8, 10
NAMES_THAT_ARE_NO_NAMES = ["", ".", "..", "../x", "/x", "a/b", "nul\0", "x" * 256, "\ud800"]


@pytest.fixture
def base_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    base_dir = tmp_path / "outside" / "base"
    monkeypatch.setenv("A2A_BASE_DIR", str(base_dir))
    return base_dir


@pytest.fixture
def registry(base_dir: Path) -> AgentRegistry:
    return AgentRegistry()


def an_agent(agent_id: Any = "a1", **fields: Any) -> AgentInfo:
    whole = {
        "agent_type": "testing",
        "capabilities": ["python"],
        "status": "idle",
        "current_task": None,
        "created_at": 1.5,
        "last_heartbeat": time.time(),
        "workspace": "w",
    }
    return AgentInfo(agent_id=agent_id, **(whole | fields))


def files_under(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


def temporary_files(directory: Path) -> list[Path]:
    return list(directory.rglob(f"*{layout.TEMPORARY_SUFFIX}"))


# What is there ------------------------------------------------------------------------------------


def test_a_registered_agent_is_discovered_as_it_was_given(registry: AgentRegistry) -> None:
    agent = an_agent("ä b\n%s", capabilities=["x", "y"], current_task="t")
    assert registry.register_agent(agent) is True
    assert registry.discover_agents() == [agent]


def test_info_and_registry_say_the_same(registry: AgentRegistry, base_dir: Path) -> None:
    agent = an_agent()
    registry.register_agent(agent)
    assert AgentInfo.from_json((base_dir / "agents/a1/info.json").read_text()) == agent
    assert json.loads((base_dir / "registry.json").read_text()) == {"a1": vars(agent)}


def test_discovery_asks_for_any_of_the_capabilities(registry: AgentRegistry) -> None:
    registry.register_agent(an_agent("a", capabilities=["x", "y"]))
    registry.register_agent(an_agent("b", capabilities=["z"]))

    def found(capabilities: list[str] | None) -> list[str]:
        return [agent.agent_id for agent in registry.discover_agents(capabilities)]

    assert found(["y", "other"]) == ["a"]
    assert found(["other"]) == []
    assert found([]) == found(None) == ["a", "b"]


def test_an_agent_is_discovered_for_a_minute_after_its_heartbeat(registry: AgentRegistry) -> None:
    registry.register_agent(an_agent("late", last_heartbeat=time.time() - 61))
    registry.register_agent(an_agent("live", last_heartbeat=time.time() - 50))
    assert [agent.agent_id for agent in registry.discover_agents()] == ["live"]
    assert registry.update_heartbeat("late") is True
    assert [agent.agent_id for agent in registry.discover_agents()] == ["late", "live"]


def test_a_heartbeat_has_its_own_file_too(registry: AgentRegistry, base_dir: Path) -> None:
    registry.register_agent(an_agent(last_heartbeat=0.0))
    registry.update_heartbeat("a1")
    beat = json.loads((base_dir / "agents/a1/heartbeat.json").read_text())
    assert beat == {"last_heartbeat": registry._load_registry()["a1"]["last_heartbeat"]}
    assert beat["last_heartbeat"] > 0


def test_unregistering_is_done_when_the_agent_is_not_there(registry: AgentRegistry) -> None:
    registry.register_agent(an_agent())
    assert registry.unregister_agent("a1") is True
    assert registry.discover_agents() == []
    assert registry.unregister_agent("a1") is True


def test_the_heartbeat_of_a_stranger_changes_nothing(
    registry: AgentRegistry, base_dir: Path
) -> None:
    assert registry.update_heartbeat("stranger") is True
    assert registry.unregister_agent("stranger") is True
    assert files_under(base_dir) == set()


def test_a_registry_whose_directory_was_removed_makes_it_again(
    registry: AgentRegistry, base_dir: Path
) -> None:
    base_dir.rmdir()
    assert registry.discover_agents() == []
    assert registry.unregister_agent("a1") is True
    assert registry.register_agent(an_agent()) is True
    assert len(registry.discover_agents()) == 1


# Several at once ----------------------------------------------------------------------------------


def register_some(process: int, barrier: Any) -> None:
    registry = AgentRegistry()
    barrier.wait()
    for number in range(AGENTS_EACH):
        assert registry.register_agent(an_agent(f"{process}-{number}"))


def test_eight_processes_that_register_ten_agents_each_lose_none(registry: AgentRegistry) -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(PROCESSES)
    processes = [
        spawn.Process(target=register_some, args=(number, barrier)) for number in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert {agent.agent_id for agent in registry.discover_agents()} == {
        f"{process}-{number}" for process in range(PROCESSES) for number in range(AGENTS_EACH)
    }


@pytest.mark.parametrize(
    "change",
    [
        lambda registry: registry.register_agent(an_agent("new")),
        lambda registry: registry.unregister_agent("a1"),
        lambda registry: registry.update_heartbeat("a1"),
    ],
    ids=["register", "unregister", "heartbeat"],
)
def test_while_one_changes_the_registry_another_cannot(
    change: Callable[[AgentRegistry], bool],
    registry: AgentRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fastclaim.registry, "LOCK_TIMEOUT_S", 0)
    registry.register_agent(an_agent())
    outcomes = []

    class Interrupted(AgentRegistry):
        def _save_registry(self, content: dict[str, Any]) -> None:
            outcomes.append(registry.register_agent(an_agent("at the same time")))
            super()._save_registry(content)

    assert change(Interrupted()) is True
    assert outcomes == [False]
    assert "at the same time" not in registry._load_registry()


def test_a_change_is_made_to_what_stands_there_once_the_lock_is_held(
    registry: AgentRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.register_agent(an_agent("a1"))
    turns = fastclaim.registry.turns

    for change in (registry.unregister_agent, registry.update_heartbeat):
        with monkeypatch.context() as patch:

            def another_comes_first(timeout_s: float, patch: Any = patch) -> Any:
                patch.undo()
                AgentRegistry().register_agent(an_agent("a2"))
                return turns(timeout_s)

            patch.setattr(fastclaim.registry, "turns", another_comes_first)
            assert change("a1") is True
        assert "a2" in registry._load_registry()
        registry.unregister_agent("a2")
        registry.register_agent(an_agent("a1"))


def test_the_lock_is_free_although_a_child_forked_meanwhile_lives(
    registry: AgentRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastclaim.registry, "LOCK_TIMEOUT_S", 0)
    until_closed, keep_open = os.pipe()
    children = []

    class Forking(AgentRegistry):
        def _save_registry(self, content: dict[str, Any]) -> None:
            child = os.fork()
            if child == 0:
                os.close(keep_open)
                os.read(until_closed, 1)
                os._exit(0)
            children.append(child)
            super()._save_registry(content)

    try:
        assert Forking().register_agent(an_agent("a1")) is True
        assert registry.register_agent(an_agent("a2")) is True
    finally:
        os.close(keep_open)
        os.close(until_closed)
        for child in children:
            os.waitpid(child, 0)


def test_a_lock_file_that_was_replaced_between_open_and_flock_is_not_trusted(
    registry: AgentRegistry, base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock_file = base_dir / "registry.lock"
    opened = []
    open_lock = fastclaim.registry._open_lock

    def open_and_lose_it(path: Path) -> Any:
        lock = open_lock(path)
        if not opened:
            lock_file.unlink()
        opened.append(os.fstat(lock.fileno()).st_ino)
        return lock

    monkeypatch.setattr(fastclaim.registry, "_open_lock", open_and_lose_it)
    assert registry.register_agent(an_agent()) is True
    assert opened[-1] == lock_file.stat().st_ino
    assert len(opened) == 2


WRITER = """
import sys, time
from fastclaim.registry import AgentInfo, AgentRegistry
registry = AgentRegistry()
for number in range(300):
    registry.register_agent(
        AgentInfo("new", "t", [], "idle", None, number, time.time(), "w" * 300_000)
    )
"""


def test_readers_never_see_a_part_of_the_registry(registry: AgentRegistry, base_dir: Path) -> None:
    registry.register_agent(an_agent())
    reads = 0
    with subprocess.Popen([sys.executable, "-c", WRITER]) as writer:
        while writer.poll() is None:
            assert "a1" in json.loads((base_dir / "registry.json").read_text())
            for file in base_dir.glob("agents/new/*.json"):
                json.loads(file.read_text())
            reads += 1
    assert writer.returncode == 0
    assert reads


def test_a_death_at_any_moment_leaves_the_registry_whole_and_unlocked(
    registry: AgentRegistry, base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastclaim.registry, "LOCK_TIMEOUT_S", 0)
    old, new = an_agent("old"), an_agent("new", workspace="w" * 10_000)
    registry.register_agent(old)
    seen = set()

    def change() -> None:
        another = AgentRegistry()
        assert another.register_agent(new)
        assert another.update_heartbeat("new")
        assert another.unregister_agent("new")

    for _ in deaths(change):
        entries = registry._load_registry()
        assert entries["old"] == vars(old)
        if "new" in entries:
            entries["new"]["last_heartbeat"] = new.last_heartbeat
            assert entries["new"] == vars(new)
            assert (base_dir / "agents/new/info.json").exists()
        for file in base_dir.glob("agents/new/*.json"):
            json.loads(file.read_text())
        seen.add("new" in entries)
        assert registry.register_agent(old), "the dead still hold the lock"
    assert seen == {False, True}
    registry.register_agent(new)
    assert temporary_files(base_dir) == []


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("agent_id", NAMES_THAT_ARE_NO_NAMES)
def test_an_agent_id_that_is_no_name_of_a_directory_leaves_nothing(
    agent_id: str, registry: AgentRegistry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = files_under(tmp_path)
    assert registry.register_agent(an_agent(agent_id)) is False
    assert registry.update_heartbeat(agent_id) is False
    assert [(line.levelno, line.agent_id) for line in caplog.records] == [
        (logging.ERROR, agent_id),
        (logging.ERROR, agent_id),
    ]
    assert registry.unregister_agent(agent_id) is True
    assert files_under(tmp_path) == before


def test_a_path_that_an_original_registered_can_be_struck_off(
    registry: AgentRegistry, base_dir: Path
) -> None:
    (base_dir / "registry.json").write_text(json.dumps({"../x": vars(an_agent("../x"))}))
    assert registry.update_heartbeat("../x") is False
    assert registry.unregister_agent("../x") is True
    assert registry._load_registry() == {}


@pytest.mark.parametrize(
    "agent",
    [
        an_agent(workspace=Path("w")),
        an_agent(capabilities={"a", "b"}),
        an_agent(agent_id=7),
        an_agent(agent_id=None),
        "no agent",
        None,
    ],
    ids=["path", "set", "int", "none", "string", "nothing"],
)
def test_an_agent_that_is_not_json_changes_nothing(
    agent: Any, registry: AgentRegistry, base_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry.register_agent(an_agent("old"))
    content, files = (base_dir / "registry.json").read_bytes(), files_under(base_dir)
    caplog.clear()
    assert registry.register_agent(agent) is False
    assert [line.levelno for line in caplog.records] == [logging.ERROR]
    assert (base_dir / "registry.json").read_bytes() == content
    assert files_under(base_dir) == files


@pytest.mark.parametrize(
    "entry",
    [
        None,
        [],
        {"agent_id": "b"},
        vars(an_agent("b")) | {"more": 1},
        vars(an_agent("b")) | {"last_heartbeat": "now"},
        vars(an_agent("b")) | {"last_heartbeat": -(10**400)},
        vars(an_agent("b")) | {"capabilities": None},
    ],
)
def test_one_malformed_entry_does_not_hide_the_others(
    entry: Any, registry: AgentRegistry, base_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entries = {"b": entry, "a1": vars(an_agent())}
    (base_dir / "registry.json").write_text(json.dumps(entries))
    assert [agent.agent_id for agent in registry.discover_agents(["python"])] == ["a1"]
    assert [(line.levelno, line.agent_id) for line in caplog.records] == [(logging.ERROR, "b")]


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"x"', "\ufeff{}"])
def test_a_registry_that_is_none_is_left_alone(
    content: str, registry: AgentRegistry, base_dir: Path
) -> None:
    registry_file = base_dir / "registry.json"
    registry_file.write_text(content, encoding="utf-8")
    assert registry.register_agent(an_agent()) is False
    assert registry.unregister_agent("a1") is False
    assert registry.update_heartbeat("a1") is False
    assert registry.discover_agents() == []
    assert registry_file.read_text(encoding="utf-8") == content


def test_a_fifo_in_the_place_of_the_registry_or_its_lock_does_not_hang(
    registry: AgentRegistry, base_dir: Path
) -> None:
    for name in ("registry.lock", "registry.json"):
        os.mkfifo(base_dir / name)
        assert registry.register_agent(an_agent()) is False
        (base_dir / name).unlink()
    assert registry.register_agent(an_agent()) is True


def test_nothing_is_written_through_a_symlink(
    registry: AgentRegistry, base_dir: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.write_text("{}")
    directory = base_dir / "agents/a1"
    directory.mkdir(parents=True)
    for link in (base_dir / "registry.json", directory / "info.json", directory / "heartbeat.json"):
        link.symlink_to(target)
    assert registry.register_agent(an_agent()) is True
    assert registry.update_heartbeat("a1") is True
    assert target.read_text() == "{}"

    (base_dir / "registry.lock").unlink()
    (base_dir / "registry.lock").symlink_to(tmp_path / "new")
    assert registry.register_agent(an_agent()) is False
    assert not (tmp_path / "new").exists()


def test_the_modes_of_its_files_follow_the_umask(registry: AgentRegistry, base_dir: Path) -> None:
    umask = os.umask(0o027)
    try:
        registry.register_agent(an_agent())
        registry.update_heartbeat("a1")
    finally:
        os.umask(umask)
    for name in (
        "registry.json",
        "registry.lock",
        "agents/a1/info.json",
        "agents/a1/heartbeat.json",
    ):
        assert stat.S_IMODE((base_dir / name).stat().st_mode) == 0o640


def test_no_temporary_file_stays_when_the_registry_cannot_be_replaced(
    registry: AgentRegistry, base_dir: Path
) -> None:
    (base_dir / "agents/a1/info.json").mkdir(parents=True)
    assert registry.register_agent(an_agent()) is False
    assert registry._load_registry() == {}
    assert temporary_files(base_dir) == []

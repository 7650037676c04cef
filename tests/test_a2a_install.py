"""install(): the original's consumers run on fastclaim, unchanged.

Each test is a program of its own: what `install` does to a process cannot be undone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

import fastclaim

Run = Callable[[str], str]

PROLOGUE = """
import importlib, logging, os, sys
from pathlib import Path
from unittest import mock

BASE = Path(os.environ["A2A_BASE_DIR"])
NAMES = (
    "A2AClient", "A2AMessage", "AgentInfo", "AgentRegistry",
    "FileBasedMessaging", "TaskPool", "create_a2a_client", "get_a2a_status",
)

def directories():
    import fastclaim.a2a
    from fastclaim import layout
    import orchestration.a2a_integration as original
    found = {
        layout.default_base_dir(),
        fastclaim.a2a.A2A_BASE_DIR,
        original.A2A_BASE_DIR,
        original.TaskPool().tasks_dir.parent,
        original.AgentRegistry().registry_file.parent,
        original.FileBasedMessaging("a1").agent_dir.parent.parent,
        original.get_a2a_status()["a2a_directory"],
    }
    if "orchestration.a2a_monitor" in sys.modules:
        monitor = sys.modules["orchestration.a2a_monitor"]
        found |= {monitor.A2A_BASE_DIR, monitor.A2AMonitor().get_system_health()["a2a_directory"]}
    return {Path(path) for path in found}
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a program in its own interpreter, in its own base directory; gives what it prints."""

    def run(program: str) -> str:
        code = PROLOGUE + textwrap.dedent(program)
        environment = os.environ | {
            "A2A_BASE_DIR": str(tmp_path / "base"),
            # Which fastclaim is tested may have been said by a relative path.
            "PYTHONPATH": str(Path(fastclaim.__file__).parents[1]),
        }
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            cwd=tmp_path,
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_all_eight_names_become_fastclaims(run: Run) -> None:
    run("""
        import orchestration.a2a_integration as original
        from fastclaim import a2a
        assert all(vars(original)[name] is not vars(a2a)[name] for name in NAMES)
        assert a2a.install() is True
        assert all(vars(original)[name] is vars(a2a)[name] for name in NAMES)
    """)


def test_consumers_that_were_imported_before_get_them_too(run: Run) -> None:
    run("""
        import orchestration.a2a_agent_wrapper as wrapper
        import orchestration.a2a_monitor as monitor
        import orchestration.task_dispatcher as dispatcher
        import orchestration
        orchestration.SomebodysPool = wrapper.__dict__["OtherName"] = monitor.TaskPool
        wrapper.AgentRegistry = "somebody else's"
        from fastclaim import a2a
        a2a.install()
        assert wrapper.A2AClient is a2a.A2AClient
        assert wrapper.A2AMessage is a2a.A2AMessage
        assert wrapper.get_a2a_status is a2a.get_a2a_status
        assert wrapper.OtherName is orchestration.SomebodysPool is a2a.TaskPool
        assert wrapper.AgentRegistry == "somebody else's"
        assert monitor.AgentRegistry is a2a.AgentRegistry
        assert monitor.TaskPool is dispatcher.TaskPool is a2a.TaskPool
        assert not hasattr(monitor, "A2AClient")
    """)


def test_installing_again_is_harmless_and_mends_a_reload(run: Run) -> None:
    run("""
        from fastclaim import a2a
        assert a2a.install() and a2a.install()
        import orchestration.a2a_integration as original
        assert original.TaskPool is a2a.TaskPool
        importlib.reload(original)
        assert original.TaskPool is not a2a.TaskPool
        import orchestration.a2a_monitor as monitor
        assert a2a.install()
        assert original.TaskPool is monitor.TaskPool is a2a.TaskPool
        assert directories() == {BASE}
    """)


def test_without_the_original_it_is_a_quiet_no_op(run: Run) -> None:
    printed = run("""
        sys.modules["orchestration"] = None
        import fastclaim.a2a
        modules = set(sys.modules)
        assert fastclaim.a2a.install() is False
        assert set(sys.modules) == modules
        assert fastclaim.a2a.get_a2a_status()["a2a_directory"] == str(BASE)
    """)
    assert printed == ""


def test_another_package_of_that_name_is_left_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "orchestration").mkdir()
    (tmp_path / "orchestration/__init__.py").touch()
    run("""
        sys.path.insert(0, os.getcwd())
        import fastclaim.a2a
        assert fastclaim.a2a.install() is False
    """)


def test_an_original_that_cannot_be_imported_says_why(run: Run, tmp_path: Path) -> None:
    (tmp_path / "orchestration").mkdir()
    (tmp_path / "orchestration/__init__.py").touch()
    (tmp_path / "orchestration/a2a_integration.py").write_text("import missing_dependency")
    run("""
        sys.path.insert(0, os.getcwd())
        import fastclaim.a2a
        try:
            fastclaim.a2a.install()
        except ModuleNotFoundError as error:
            assert error.name == "missing_dependency"
        else:
            raise AssertionError
        assert logging.getLogger().handlers == []
    """)


def test_importing_fastclaim_patches_makes_and_configures_nothing(run: Run) -> None:
    run("""
        import fastclaim, fastclaim.a2a
        assert "orchestration" not in sys.modules
        assert not BASE.exists()
        assert logging.getLogger().handlers == []
        assert logging.getLogger("fastclaim").handlers == []
        import orchestration.a2a_integration as original
        assert original.TaskPool is not fastclaim.TaskPool
    """)


def test_the_hosts_logging_stays_as_it_is(run: Run) -> None:
    run("""
        root = logging.getLogger()
        root.setLevel(logging.ERROR)
        import fastclaim.a2a
        assert fastclaim.a2a.install()
        assert "orchestration.a2a_integration" in sys.modules
        assert (root.handlers, root.level) == ([], logging.ERROR)
    """)
    run("""
        root = logging.getLogger()
        handler = logging.StreamHandler()
        root.addHandler(handler)
        import fastclaim.a2a
        assert fastclaim.a2a.install()
        assert (root.handlers, root.level) == ([handler], logging.WARNING)
    """)


# The original's consumers -------------------------------------------------------------------------


def test_the_wrapper_claims_and_completes_a_task(run: Run) -> None:
    run("""
        import fastclaim.a2a
        fastclaim.a2a.install()
        from orchestration.a2a_agent_wrapper import create_a2a_wrapper, get_all_agents_status
        wrapper = create_a2a_wrapper("a1", "testing", ["python"], "w")
        assert type(wrapper.a2a_client) is fastclaim.a2a.A2AClient
        task_id = wrapper.publish_task("a task", ["python"])
        assert [task["task_id"] for task in wrapper.get_available_tasks()] == [task_id]
        wrapper._check_available_tasks()
        assert wrapper.get_available_tasks() == []
        (completed,) = fastclaim.TaskPool().tasks("completed")
        assert completed["task_id"] == task_id
        assert completed["result"]["agent_id"] == "a1"
        assert wrapper.get_agent_info()["status"] == "idle"
        assert get_all_agents_status()["agents_online"] == 1
    """)


def test_wrappers_answer_each_other(run: Run) -> None:
    run("""
        import fastclaim.a2a
        fastclaim.a2a.install()
        from orchestration.a2a_agent_wrapper import create_a2a_wrapper
        a1, a2 = (create_a2a_wrapper(name, "testing", ["python"], "w") for name in ("a1", "a2"))
        assert a1.broadcast_message("discover", {})
        (question,) = a2.a2a_client.receive_messages()
        a2._process_message(question)
        (answer,) = a1.a2a_client.receive_messages()
        assert answer.payload["agent_id"] == "a2"
    """)


def test_the_wrappers_threads_start_and_stop(run: Run) -> None:
    run("""
        import fastclaim.a2a
        fastclaim.a2a.install()
        from orchestration.a2a_agent_wrapper import A2AAgentWrapper
        wrapper = A2AAgentWrapper("a1", "testing", ["python"], "w")
        wrapper.start()
        wrapper._running = False
        wrapper._message_thread.join()
        wrapper.a2a_client.shutdown()
        assert fastclaim.a2a.AgentRegistry().discover_agents() == []
        os._exit(0)  # its heartbeat thread sleeps for half a minute
    """)


def test_the_monitor_gives_back_the_tasks_of_agents_that_are_not_registered(run: Run) -> None:
    run("""
        import fastclaim.a2a
        fastclaim.a2a.install()
        from orchestration.a2a_monitor import A2AMonitor
        gone = fastclaim.a2a.create_a2a_client("gone", "testing", [], "w")
        here = fastclaim.a2a.create_a2a_client("here", "testing", [], "w")
        orphan, kept = gone.publish_task("d"), gone.publish_task("d")
        assert gone.claim_task(orphan) and here.claim_task(kept)
        gone.shutdown()
        monitor = A2AMonitor()
        assert monitor._cleanup_orphaned_tasks() == 1
        health = monitor.get_system_health()
        assert health["health_status"] == "healthy", health
        assert health["agents"]["active"] == 1
        assert health["tasks"]["available"] == health["tasks"]["claimed"] == 1
        assert monitor.get_agent_status("here")["task_count"] == 1
        again = here.claim_task(orphan)
        assert again["claimed_by"] == "here"
        assert here.complete_task(orphan, {})
    """)


def test_the_monitor_strikes_stale_agents_off(run: Run) -> None:
    run("""
        import fastclaim.a2a
        fastclaim.a2a.install()
        from orchestration.a2a_monitor import A2AMonitor
        client = fastclaim.a2a.create_a2a_client("stale", "testing", [], "w")
        task_id = client.publish_task("d")
        client.claim_task(task_id)
        client.agent_info.last_heartbeat = 0.0
        client.registry.register_agent(client.agent_info)
        monitor = A2AMonitor()
        assert monitor.get_system_health()["agents"]["stale"] == 1
        done = monitor.force_cleanup()
        assert (done["agents_cleaned"], done["tasks_cleaned"]) == (1, 1), done
        assert client.registry._load_registry() == {}
        assert not (BASE / "agents/stale").exists()
        assert [task["task_id"] for task in client.get_available_tasks()] == [task_id]
        assert client.receive_messages() == []
    """)


def test_the_dispatcher_publishes_to_the_same_pool(run: Run) -> None:
    run("""
        import fastclaim.a2a
        fastclaim.a2a.install()
        from orchestration.task_dispatcher import TaskDispatcher
        dispatcher = TaskDispatcher()
        assert type(dispatcher.task_pool) is fastclaim.TaskPool
        assert dispatcher.broadcast_task_to_a2a("a task", ["python"])
        (task,) = fastclaim.TaskPool().get_available_tasks()
        assert task["description"] == "a task"
        assert dispatcher.get_a2a_status()["a2a_enabled"]
    """)


# One base directory -------------------------------------------------------------------------------


def test_after_install_all_mean_one_directory(run: Run) -> None:
    run("""
        import fastclaim.a2a
        fastclaim.a2a.install()
        import orchestration.a2a_monitor
        assert directories() == {BASE}
    """)


@pytest.mark.parametrize("first", ["orchestration.a2a_monitor", "fastclaim.a2a"])
def test_an_environment_that_changes_after_import_parts_nobody(run: Run, first: str) -> None:
    # Upstream's own test imports first and sets the variable then.
    run(f"""
        import {first}
        os.environ["A2A_BASE_DIR"] = str(BASE / "changed")
        import fastclaim.a2a
        fastclaim.a2a.install()
        os.environ["A2A_BASE_DIR"] = str(BASE / "changed again")
        import orchestration.a2a_monitor
        assert len(directories()) == 1, directories()
        os.environ.pop("A2A_BASE_DIR")
        assert len(directories()) == 1, directories()
        if {first!r}.startswith("orchestration"):
            assert directories() == {{BASE}}
    """)


@pytest.mark.parametrize("module", ["orchestration.a2a_integration", "fastclaim.a2a"])
@pytest.mark.parametrize("kind", ["str", "Path"])
def test_a_directory_that_is_assigned_later_moves_all(run: Run, module: str, kind: str) -> None:
    run(f"""
        import fastclaim.a2a
        fastclaim.a2a.install()
        import orchestration.a2a_monitor
        sys.modules[{module!r}].A2A_BASE_DIR = {kind}(BASE / "assigned")
        assert directories() == {{BASE / "assigned"}}
        client = fastclaim.a2a.create_a2a_client("gone", "testing", [], "w")
        client.claim_task(client.publish_task("d"))
        client.shutdown()
        monitor = orchestration.a2a_monitor.A2AMonitor()
        assert monitor.force_cleanup()["tasks_cleaned"] == 1
        assert (BASE / "assigned/tasks/available").exists()
        assert not (BASE / "tasks").exists()
    """)


def test_a_directory_that_was_assigned_before_install_moves_all(run: Run) -> None:
    run("""
        import orchestration.a2a_monitor
        import fastclaim.a2a
        fastclaim.a2a.A2A_BASE_DIR = str(BASE / "assigned")
        fastclaim.a2a.install()
        assert directories() == {BASE / "assigned"}
    """)


@pytest.mark.parametrize("module", ["orchestration.a2a_integration", "fastclaim.a2a"])
def test_mock_and_monkeypatch_put_all_back(run: Run, module: str) -> None:
    run(f"""
        import pytest
        import fastclaim.a2a
        fastclaim.a2a.install()
        import orchestration.a2a_monitor
        for _ in range(2):
            with mock.patch("{module}.A2A_BASE_DIR", str(BASE / "patched")):
                assert directories() == {{BASE / "patched"}}
            assert directories() == {{BASE}}
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("{module}.A2A_BASE_DIR", str(BASE / "patched"))
                assert directories() == {{BASE / "patched"}}
            assert directories() == {{BASE}}
    """)


def test_a_copy_that_somebody_set_apart_stays_apart(run: Run) -> None:
    run("""
        import fastclaim.a2a
        fastclaim.a2a.install()
        import orchestration.a2a_monitor as monitor
        monitor.A2A_BASE_DIR = "apart"
        fastclaim.a2a.A2A_BASE_DIR = str(BASE / "assigned")
        assert monitor.A2A_BASE_DIR == "apart"
    """)


def test_a_reload_reads_the_environment_anew_for_all(run: Run) -> None:
    run("""
        import fastclaim.a2a
        fastclaim.a2a.install()
        import orchestration.a2a_integration as original
        os.environ["A2A_BASE_DIR"] = str(BASE / "changed")
        importlib.reload(original)
        fastclaim.a2a.install()
        import orchestration.a2a_monitor
        assert directories() == {BASE / "changed"}
    """)

"""`fastclaim` itself: dispatch, errors as exit statuses, start-up, and the doctor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

from fastclaim import TaskPool
from fastclaim.cli import main
from fastclaim.cli.commands import COMMANDS, version

from .agents import agent
from .commands import fastclaim


@pytest.fixture
def core_variables(core: ModuleType) -> dict[str, str]:
    """What makes a new process take the core."""
    return {"FASTCLAIM_NO_EXTENSIONS": "1" if core.NAME == "python" else ""}


def test_the_version_is_the_distributions():
    try:
        expected = metadata.version("fastclaim")
    except metadata.PackageNotFoundError:
        expected = "unknown (run from a source tree)"
    result = fastclaim("--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"fastclaim {expected}\n", "")


def test_help_names_every_command():
    result = fastclaim("--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert [name for name in COMMANDS if f"    {name}" not in result.stdout] == []
    assert "None" not in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_explains_its_exit_status(command):
    result = fastclaim(command, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert "exit status: 0 done" in result.stdout


def test_without_a_command_it_says_which_there_are():
    result = fastclaim()
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == fastclaim("--help").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("clam",), "no command 'clam'; did you mean claim?"),
        (("--debug", "xyz"), "no command 'xyz'"),
        (("--vers",), "--vers: options come after a command"),
        (("--pool", "/p", "list"), "--pool: options come after a command"),
    ],
)
def test_what_is_no_command_is_told_in_one_line(arguments, said):
    result = fastclaim(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"fastclaim: {said} (see fastclaim --help)\n"


def test_a_closed_pipe_ends_it_without_a_word():
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as pipe:
        result = subprocess.run(
            [sys.executable, "-m", "fastclaim", "doctor"],
            stdout=pipe,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    assert (result.returncode, result.stderr) == (141, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_behind_the_output_is_told_once():
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            [sys.executable, "-m", "fastclaim", "doctor"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert result.returncode == 7
    assert result.stderr == "fastclaim doctor: standard output: No space left on device\n"


def findings(result: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """What the doctor says, by check."""
    assert (result.returncode, result.stderr) == (0, "")
    found = [json.loads(line) for line in result.stdout.splitlines()]
    return {finding["check"]: finding["message"] for finding in found}


def test_the_doctor_says_which_core_and_why(core, core_variables):
    found = findings(fastclaim("doctor", **core_variables))
    why = {"c": "compiled", "python": "because FASTCLAIM_NO_EXTENSIONS=1"}[core.NAME]
    assert found["core"] == f"{core.NAME}, {why}"
    assert found["version"] == version()
    assert found["python"].endswith(sys.executable)


# Stands before the import system's own finders, and answers for the extension.
FINDER = """
import importlib.machinery, sys

class Loader:
    def create_module(self, spec):
        raise ImportError(spec.loader_state)

    def exec_module(self, module):
        pass

class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != "fastclaim._transition_c":
            return super().find_spec(name, path, target)
        if PROBLEM is not None:
            return importlib.machinery.ModuleSpec(name, Loader(), loader_state=PROBLEM)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Finder
from fastclaim.cli import main
sys.exit(main(["doctor"]))
"""


@pytest.mark.parametrize(
    ("problem", "why"),
    [
        (None, "the compiled one was not built: an install without a working C compiler"),
        ("GLIBC_9 not found", "the compiled one cannot be loaded: GLIBC_9 not found"),
    ],
)
def test_the_doctor_says_why_there_is_no_compiled_core(problem, why):
    switches = {"FASTCLAIM_REQUIRE_EXTENSIONS": "", "FASTCLAIM_NO_EXTENSIONS": ""}
    result = subprocess.run(
        [sys.executable, "-c", f"PROBLEM = {problem!r}\n{FINDER}"],
        env=os.environ | switches,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert findings(result)["core"] == f"python, because {why}"


def test_the_doctor_counts_what_is_in_the_pool(tmp_path):
    pool = TaskPool(tmp_path / "pool")
    pool.publish_many([{"task_id": n} for n in range(5)])
    pool.claim(0, "a")
    pool.claim(1, "a").complete()
    found = findings(fastclaim("doctor", A2A_BASE_DIR=str(tmp_path / "pool")))
    assert found["pool"] == f"{tmp_path}/pool, A2A_BASE_DIR is set"
    assert found["tasks"] == "3 available, 1 claimed, 1 completed, 0 failed"


def test_the_doctor_advises_commands_and_pythons_advises_methods(tmp_path, monkeypatch, capsys):
    pool = TaskPool(tmp_path / "pool")
    pool.publish_many([{"task_id": "x", "max_attempts": 1}, {"task_id": "y", "blocked_by": ["x"]}])
    pool.claim("x", "a").fail("no")
    pool.publish("z")
    with agent(lambda: pool.claim("z", "a")) as holder:
        holder.kill()
    pool.pause()
    # Nobody is kept from writing who may write everything.
    monkeypatch.setattr(os, "access", lambda path, mode: not os.fspath(path).endswith("owners"))
    by_method = {finding.check: finding.advice for finding in pool.doctor()}
    monkeypatch.setenv("A2A_BASE_DIR", os.fspath(pool.base_dir))
    main(["doctor", "--json"])
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    by_command = {finding["check"]: finding["advice"] for finding in found}
    for check, method, command in (
        ("left behind", "run recover()", "run `fastclaim recover`"),
        ("owners", "recover(older_than=...) now", "`fastclaim recover --older-than S` now"),
        ("blocked", "run retry_failed()", "run `fastclaim retry --all`"),
        ("pause", "run resume() when", "run `fastclaim resume` when"),
    ):
        assert method in by_method[check]
        assert by_command[check] == by_method[check].replace(method, command)


def test_the_doctor_makes_nothing(tmp_path):
    found = findings(fastclaim("doctor", A2A_BASE_DIR=str(tmp_path / "pool")))
    assert found["tasks"] == "none: there is no such pool yet"
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_names_the_default_pool():
    found = findings(fastclaim("doctor", A2A_BASE_DIR=""))
    assert found["pool"] == "/tmp/orchestration/a2a, A2A_BASE_DIR is not set: the default"


def test_the_doctor_says_so_where_the_pool_cannot_be_read(tmp_path):
    Path(tmp_path / "file").touch()
    result = fastclaim("doctor", A2A_BASE_DIR=str(tmp_path / "file"))
    assert (result.returncode, result.stderr) == (1, "")
    assert f"cannot be read: {tmp_path}/file/tasks: Not a directory" in result.stdout

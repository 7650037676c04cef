"""What an install gives, and what an import may do; each import in a process of its own."""

import importlib.metadata
import importlib.util
import inspect
import os
import shutil
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import fastclaim

ROOT = Path(__file__).resolve().parents[1]
SWITCHES = ("FASTCLAIM_NO_EXTENSIONS", "FASTCLAIM_REQUIRE_EXTENSIONS")


def run_python(code: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a new interpreter whose environment has no switch but those in `variables`."""
    environment = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    # -B: writing bytecode makes a directory, and is not the import's own doing.
    return subprocess.run(
        [sys.executable, "-B", "-c", code],
        cwd=cwd,
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )


def installed_files() -> set[str]:
    """The package's files as the installer recorded them, relative to site-packages."""
    return {str(path) for path in importlib.metadata.files("fastclaim") or ()}


@pytest.mark.skipif(
    os.environ.get("FASTCLAIM_REQUIRE_EXTENSIONS") != "1",
    reason="FASTCLAIM_REQUIRE_EXTENSIONS=1 is not set: an install without a compiler is allowed",
)
def test_a_plain_install_gives_the_compiled_core(tmp_path):
    result = run_python("import fastclaim; print(fastclaim.core)", tmp_path)
    assert (result.stdout, result.stderr) == ("c\n", "")
    spec = importlib.util.find_spec("fastclaim._transition_c")
    assert spec is not None
    assert Path(spec.origin).suffix == ".so"


def test_no_extensions_forces_the_python_core(tmp_path):
    result = run_python(
        "import sys, fastclaim; print(fastclaim.core, 'fastclaim._transition_c' in sys.modules)",
        tmp_path,
        FASTCLAIM_NO_EXTENSIONS="1",
    )
    assert (result.stdout, result.stderr) == ("python False\n", "")


# None in sys.modules makes the import of that name fail, as if it had not been built.
WITHOUT_EXTENSION = "import sys; sys.modules['fastclaim._transition_c'] = None; import fastclaim; "


def test_without_the_extension_an_import_takes_the_python_core(tmp_path):
    result = run_python(WITHOUT_EXTENSION + "print(fastclaim.core)", tmp_path)
    assert (result.stdout, result.stderr) == ("python\n", "")


def test_require_extensions_refuses_an_import_without_the_extension(tmp_path):
    result = run_python(WITHOUT_EXTENSION, tmp_path, FASTCLAIM_REQUIRE_EXTENSIONS="1")
    assert result.returncode == 1
    said = "ImportError: FASTCLAIM_REQUIRE_EXTENSIONS=1, but the compiled core was not built"
    assert result.stderr.splitlines()[-1] == said
    assert "The above exception was the direct cause" in result.stderr


def test_of_both_switches_the_one_for_no_extensions_wins_in_an_import(tmp_path):
    both = dict.fromkeys(SWITCHES, "1")
    result = run_python("import fastclaim; print(fastclaim.core)", tmp_path, **both)
    assert (result.stdout, result.stderr) == ("python\n", "")


def test_an_import_needs_only_the_standard_library(tmp_path):
    # Before and after: a .pth file in site-packages may have imported things before any code ran.
    result = run_python(
        "import sys; before = set(sys.modules); import fastclaim; "
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before}"
        " - sys.stdlib_module_names)",
        tmp_path,
    )
    assert result.stderr == ""
    # Cython registers what its modules share under names of its own; no file is behind them.
    others = {name for name in result.stdout.split() if "cython" not in name}
    assert others == {"fastclaim"}


def test_an_import_makes_no_directory(tmp_path):
    result = run_python(
        "import sys; made = []; "
        "sys.addaudithook(lambda event, args: event == 'os.mkdir' and made.append(args[0])); "
        "import fastclaim; print(made)",
        tmp_path,
        A2A_BASE_DIR=str(tmp_path / "pool"),
    )
    assert (result.stdout, result.stderr) == ("[]\n", "")
    # The compiled core's system calls raise no audit events.
    assert list(tmp_path.iterdir()) == []


def test_an_import_configures_no_logging(tmp_path):
    result = run_python(
        "import logging, fastclaim; print(logging.root.handlers, logging.root.level)", tmp_path
    )
    assert (result.stdout, result.stderr) == ("[] 30\n", "")


def test_the_originals_methods_import_no_logging_for_what_nobody_would_hear(tmp_path):
    result = run_python(
        "import sys; from fastclaim import TaskPool; pool = TaskPool('pool');"
        " print(pool.publish_task('x', ''), bool(pool.claim_task('x', 'a')),"
        " pool.complete_task('x', 'a', {}), 'logging' in sys.modules)",
        tmp_path,
    )
    assert (result.stdout, result.stderr) == ("True True True False\n", "")


@pytest.mark.parametrize("report", [fastclaim.RecoveryReport, fastclaim.Pause, fastclaim.Finding])
def test_what_a_report_consists_of_has_types_at_run_time(report):
    assert tuple(typing.get_type_hints(report)) == report._fields
    given = inspect.signature(report).parameters.values()
    assert all(parameter.annotation is not parameter.empty for parameter in given)


def test_the_version_is_the_distributions():
    assert fastclaim.__version__ == importlib.metadata.version("fastclaim")


def test_an_install_requires_nothing_that_was_not_asked_for():
    requirements = importlib.metadata.requires("fastclaim") or []
    assert [line for line in requirements if "extra ==" not in line] == []


def test_an_install_has_types_and_samples_and_no_sources_of_the_core():
    files = installed_files()
    if "fastclaim/__init__.py" not in files:
        pytest.skip("an editable install: the source tree is the package")
    assert {
        "fastclaim/py.typed",
        "fastclaim/_transition_c.pyi",
        "fastclaim/cli/sample_tasks.jsonl",
    } <= files
    assert {name for name in files if name.endswith((".pyx", ".pxd", ".c", ".h"))} == set()


def test_git_tracks_no_generated_files():
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("no git checkout")
    tracked = subprocess.run(
        ["git", "ls-files", "--", "src"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert [name for name in tracked if name.endswith((".c", ".so"))] == []

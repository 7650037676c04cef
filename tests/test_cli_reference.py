"""docs/cli.md says what the command does."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastclaim.cli import reference

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"


@pytest.fixture(autouse=True)
def no_defaults_from_here(monkeypatch):
    """As when the page is made."""
    for variable in ("FASTCLAIM_AGENT", "FASTCLAIM_TASK_ID"):
        monkeypatch.delenv(variable, raising=False)


def test_the_page_is_what_the_parsers_say():
    made = reference.reference()
    assert PAGE.read_text() == made, "python -m fastclaim.cli.reference >docs/cli.md"


def usage(command: str) -> str:
    """The line that says how a command is called."""
    start = f"    fastclaim {command} "
    (line,) = (line for line in PAGE.read_text().splitlines() if line.startswith(start))
    return line.removeprefix(start)


def test_the_command_that_work_runs_comes_after_all_options():
    assert usage("work").endswith("[--json] -- CMD [ARG..]")


def test_what_the_environment_may_give_need_not_be_given():
    assert usage("complete").startswith("[TASK] [--agent A] ")
    assert usage("claim").startswith("[TASK] [--agent A] ")
    assert "] --lease S" in usage("renew")


def test_the_page_says_what_is_spared_by_pruning_and_recovery_and_what_an_interruption_does():
    page = PAGE.read_text()
    assert "completed ones that others are still blocked by stay" in page
    assert "older than this, and bound to no process and to no lease" in page
    assert "all or nothing, unless it is interrupted" in page

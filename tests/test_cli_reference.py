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

"""What the README shows of the command is what the command does."""

from __future__ import annotations

from .session import comparable, replayed, written


def test_the_readmes_session_is_what_happens():
    assert comparable(written()) == comparable(replayed()), "python -m tests.session"

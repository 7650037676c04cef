"""`fastclaim migrate`: move a pool from a directory to PostgreSQL, or back, while agents work."""

from __future__ import annotations

import argparse

from .. import layout
from . import exits, options
from .output import count, screen

_SHOWN: int = 20


def add_migrate_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommand's arguments."""
    parser.add_argument(
        "--from", dest="source", metavar="POOL", required=True, help="a directory, or a URL"
    )
    parser.add_argument(
        "--to", dest="target", metavar="POOL", required=True, help="a URL, or a directory"
    )


def run_migrate(arguments: argparse.Namespace) -> int:
    """Run the subcommand; returns the exit status."""
    source, target = arguments.source, arguments.target
    if layout.is_url(source) == layout.is_url(target):
        raise exits.BadInput("one of the two pools must be a directory, the other a URL")
    if not layout.is_url(source):
        options.check_is_there(source)
    try:
        from ..postgres.migrate import migrate
    except ImportError as error:
        raise exits.BadInput(f"{error}") from None
    moved, left = migrate(source, target)
    ours = screen()
    ours.good(f"moved {count(moved, 'task')} to {layout.shown(target)}")
    if not left:
        return exits.OK
    stay = [f"{task_id}: {reason}" for task_id, reason in left[:_SHOWN]]
    if len(left) > _SHOWN:
        stay.append(f"and {len(left) - _SHOWN:,} more")
    ours.bad(f"left {count(len(left), 'task')} in {layout.shown(source)}; run it again:", stay)
    return exits.WRONG

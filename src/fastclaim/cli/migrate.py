"""`fastclaim migrate`: move a pool from a directory to PostgreSQL, or back, while agents work."""

from __future__ import annotations

import argparse
import errno
import os
from typing import Final

from .. import layout
from ..pool import TaskPool
from . import exits
from .exits import one_line
from .output import count, screen

_SHOWN: Final = 20
_OF_A_POOL: Final = ("tasks", "agents", "registry.json")


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
    if "" in (source, target):
        raise exits.BadInput("the name of a pool is empty")
    if layout.is_url(source) == layout.is_url(target):
        raise exits.BadInput("one of the two pools must be a directory, the other a URL")
    if not layout.is_url(source) and not any(
        os.path.lexists(os.path.join(source, name)) for name in _OF_A_POOL
    ):
        raise FileNotFoundError(errno.ENOENT, "there is no pool", source)
    try:
        from ..postgres.migrate import migrate
        from ..postgres.migrate_agents import migrate_agents
        from ..postgres.pool import PostgresPool
    except ImportError as error:
        raise exits.BadInput(f"{error}") from None
    if layout.is_url(source):
        PostgresPool(source, _must_exist=True)  # or a mistyped schema would be made
    moved, left = migrate(source, target)
    agents, messages, also_left = migrate_agents(source, target)
    ours = screen()
    ours.good(
        f"moved {count(moved, 'task')}, {count(messages, 'message')} and"
        f" {count(agents, 'agent')} to {layout.shown(target)}"
    )
    pause, other = TaskPool(source).paused(), TaskPool(target).paused()
    if pause is not None and other is None:
        ours.say(f"{layout.shown(source)} is paused; {layout.shown(target)} is not")
    stay = [f"task {task_id}: {_by_command(reason)}" for task_id, reason in left]
    stay += [f"{what}: {reason}" for what, reason in also_left]
    if not stay:
        return exits.OK
    if len(stay) > _SHOWN:
        stay[_SHOWN:] = [f"and {len(stay) - _SHOWN:,} more"]
    ours.bad(
        f"not all of {layout.shown(source)}; run it again for the rest:", [*map(one_line, stay)]
    )
    return exits.WRONG


def _by_command(reason: str) -> str:
    """The same, but that it names a command where it names a method."""
    return reason.replace("recover()", "`fastclaim recover`")

"""`fastclaim events`: one JSON line per state change, for audit and for piping."""

from __future__ import annotations

import argparse
import signal
import time

from . import answer, exits, options
from .follower import Follower
from .state_changes import history
from .stopping import EndOfWait


def add_events_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--follow",
        action="store_true",
        help="print changes as they happen, until Ctrl-C; default: those that the files tell of",
    )
    parser.add_argument(
        "--since",
        metavar="S",
        type=options.seconds,
        help="no changes that are longer ago; default: inf, with --follow: 0",
    )
    options.add_pool(parser)


def run_events(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    tasks_dir = options.directory_pool(arguments).tasks_dir
    now_s = time.time()
    if not arguments.follow:
        since_s = float("inf") if arguments.since is None else arguments.since
        for change in history(tasks_dir):
            if change.at_s >= now_s - since_s:
                answer.line(change.as_dict())
        return exits.OK
    # What else ends it, the kernel does.
    with EndOfWait([signal.SIGINT]), Follower(tasks_dir) as follower:
        if arguments.since:
            for change in history(tasks_dir):
                # What came later the follower tells.
                if now_s - arguments.since <= change.at_s < now_s:
                    answer.line(change.as_dict())
        while True:
            for change in follower.wait():
                answer.line(change.as_dict())

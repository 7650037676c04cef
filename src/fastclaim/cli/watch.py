"""`fastclaim watch`: the pool, live, in the whole terminal."""

from __future__ import annotations

import argparse
import sys

from . import exits, options
from .intervals import interval


def add_watch_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--interval",
        metavar="S",
        type=interval,
        default=1.0,
        help="how often to look; default: 1",
    )
    options.add_pool(parser)


def run_watch(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    try:
        from .watch_app import WatchApp
    except ImportError as error:
        raise exits.BadInput("this needs textual: install fastclaim[cli]") from error
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise exits.BadInput("this needs a terminal; `fastclaim status` does not")
    pool = options.existing_pool(arguments)
    app = WatchApp(pool, f"{pool.base_dir}", arguments.interval)
    app.run()
    return app.return_code or exits.OK

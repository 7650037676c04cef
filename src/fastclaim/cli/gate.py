"""`fastclaim pause` and `resume`: whether anything can be claimed."""

from __future__ import annotations

import argparse
import time

from . import exits, options
from .answer import answer
from .tables import when


def add_pause_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--for",
        metavar="S",
        dest="for_s",
        type=options.finite_seconds,
        help="how long; default: until `fastclaim resume`",
    )
    parser.add_argument("--reason", metavar="TEXT", default="", help="what agents are told")
    options.add_pool(parser)
    options.add_json(parser)


def run_pause(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    until_s = None if arguments.for_s is None else time.time() + arguments.for_s
    options.open_or_new_pool(arguments).pause(until_s, arguments.reason)
    answer(
        arguments,
        {"paused": True, "until": until_s, "reason": arguments.reason},
        f"paused until {'further notice' if until_s is None else when(until_s)}",
    )
    return exits.OK


def add_resume_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    options.add_pool(parser)
    options.add_json(parser)


def run_resume(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    options.existing_pool(arguments).resume()
    answer(arguments, {"paused": False}, "agents can claim again")
    return exits.OK

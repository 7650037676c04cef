"""`fastclaim work`: a command for each task that an agent can claim."""

from __future__ import annotations

import argparse
import os
import shutil

from . import exits, options
from .claim import ORDERS
from .worker import LAST_WORDS_S, Worker

_DEFAULT_GRACE_S = 30.0
_DEFAULT_ATTEMPTS = 3


def add_work_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    # argparse would say "..." for the command.
    parser.usage = "%(prog)s --agent A [options] -- CMD [ARG..]"
    parser.add_argument(
        "cmd",
        metavar="-- CMD [ARG..]",
        nargs=argparse.REMAINDER,
        help="gets the task as JSON on its standard input, and in its environment"
        f" ${options.TASK_VARIABLE}, ${options.AGENT_VARIABLE}, $FASTCLAIM_TOKEN,"
        " $FASTCLAIM_ATTEMPT and $A2A_BASE_DIR. Exit status 0 completes the task with what CMD has"
        " printed, as JSON if it is JSON; any other fails it with the last lines of its stderr",
    )
    options.add_agent(parser)
    options.add_capabilities(parser)
    _add_pace(parser)
    _add_failure(parser)
    options.add_pool(parser)
    options.add_json(parser)


def _add_pace(parser: argparse.ArgumentParser) -> None:
    """Which tasks, how many, and until when."""
    parser.add_argument(
        "--order",
        choices=ORDERS,
        default="priority",
        help="which task is the next; default: priority",
    )
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=options.whole(1),
        default=1,
        help="how many at a time; default: 1",
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="end after one task; waits until there is one, except with --until-empty or"
        " --idle-exit: then status 1 if there was none. The status does not say"
        " whether the task failed; the line that is printed does",
    )
    parser.add_argument(
        "--until-empty", action="store_true", help="end when there is nothing to claim"
    )
    parser.add_argument(
        "--idle-exit",
        metavar="S",
        type=options.seconds,
        default=float("inf"),
        help="end when there was nothing to claim for so long; default: wait for ever",
    )


def _add_failure(parser: argparse.ArgumentParser) -> None:
    """What becomes of a task whose command does not end well."""
    parser.add_argument(
        "--grace-s",
        metavar="S",
        type=options.finite_seconds,
        default=_DEFAULT_GRACE_S,
        help="when told to stop (SIGTERM, SIGHUP, Ctrl-C) let CMD go on for so long, then end it"
        f" with SIGTERM, {LAST_WORDS_S:.0f} s later with SIGKILL, and give its task back; default:"
        f" {_DEFAULT_GRACE_S:.0f}. Told a second time: SIGTERM at once; a third time: SIGKILL",
    )
    parser.add_argument(
        "--retry-after",
        metavar="S",
        type=options.finite_seconds,
        help="a task that failed is not to be tried again before this time has passed",
    )
    parser.add_argument(
        "--max-attempts",
        metavar="N",
        type=options.whole(1),
        default=_DEFAULT_ATTEMPTS,
        help="a task that says nothing else is given up after this many attempts;"
        f" default: {_DEFAULT_ATTEMPTS}",
    )


def run_work(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    command = arguments.cmd[1:] if arguments.cmd[:1] == ["--"] else arguments.cmd
    if not command:
        raise exits.BadInput("no command; it comes after --")
    # Before a task is claimed for it.
    if shutil.which(command[0]) is None:
        raise exits.BadInput(f"{command[0]}: {_why_not(command[0])}")
    pool = options.open_or_new_pool(arguments, max_attempts=arguments.max_attempts)
    with Worker(arguments, pool, command) as worker:
        return worker.run()


def _why_not(command: str) -> str:
    """Why a command cannot be run."""
    if os.path.dirname(command) and os.path.exists(command):
        return "is a directory" if os.path.isdir(command) else "is not executable"
    return "no such command"

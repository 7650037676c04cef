"""`fastclaim complete`, `release`, `fail` and `renew`: what becomes of a claim."""

from __future__ import annotations

import time

from . import exits, options
from .answer import answer
from .fields import json_value
from .streams import standard_input

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def _add_claim(parser: argparse.ArgumentParser) -> None:
    """Which claim."""
    options.add_task(parser)
    options.add_agent(parser)
    parser.add_argument(
        "--token",
        metavar="T",
        help="the claim's claim_token: only that very claim is meant, not a later one by the agent",
    )
    options.add_pool(parser)
    options.add_json(parser)


def add_complete_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    _add_claim(parser)
    parser.add_argument(
        "--result",
        metavar="R",
        help="what came of it: JSON, or else any text; -: read it from the standard input (null if"
        " that is empty)",
    )


def run_complete(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    if arguments.result == "-":
        result = as_result(standard_input().decode(errors="replace"))
    else:
        result = None if arguments.result is None else _json_or_text(arguments.result)
    pool = options.existing_pool(arguments)
    pool.complete(arguments.task, arguments.agent, result, token=arguments.token)
    return _say(arguments, "completed", f"completed {arguments.task!r}")


def as_result(output: str) -> object:
    """What a command's output completes a task with; None if it has printed nothing."""
    return _json_or_text(output) if output.strip() else None


def _json_or_text(text: str) -> object:
    try:
        return json_value(text)
    except (ValueError, RecursionError):
        return text.rstrip("\n")


def add_release_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    _add_claim(parser)
    parser.add_argument(
        "--after",
        metavar="S",
        type=options.finite_seconds,
        help="nobody is to claim it before this time has passed",
    )


def run_release(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    pool = options.existing_pool(arguments)
    not_before = None if arguments.after is None else time.time() + arguments.after
    pool.release(arguments.task, arguments.agent, token=arguments.token, not_before=not_before)
    return _say(arguments, "available", f"released {arguments.task!r}")


def add_fail_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    _add_claim(parser)
    parser.add_argument(
        "--error", metavar="TEXT", default="failed", help="what went wrong; default: failed"
    )
    parser.add_argument(
        "--retry-after",
        metavar="S",
        type=options.finite_seconds,
        help="nobody is to try again before this time has passed",
    )


def run_fail(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    pool = options.existing_pool(arguments)
    state = pool.fail(
        arguments.task,
        arguments.agent,
        arguments.error,
        token=arguments.token,
        retry_after_s=arguments.retry_after,
    )
    then = "it will be tried again" if state == "available" else "that was the last attempt"
    return _say(arguments, state, f"an attempt at {arguments.task!r} failed; {then}")


def add_renew_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    _add_claim(parser)
    parser.add_argument(
        "--lease",
        metavar="S",
        type=options.finite_seconds,
        required=True,
        help="how long the claim is to stand from now on",
    )


def run_renew(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from .tables import when  # the others of these need no calendar

    pool = options.existing_pool(arguments)
    until_s = pool.renew(arguments.task, arguments.agent, arguments.lease, token=arguments.token)
    answer(
        arguments,
        {"task_id": arguments.task, "state": "claimed", "lease_expires_at": until_s},
        f"the claim of {arguments.task!r} stands until {when(until_s)}",
    )
    return exits.OK


def _say(arguments: argparse.Namespace, state: str, sentence: str) -> int:
    answer(arguments, {"task_id": arguments.task, "state": state}, sentence)
    return exits.OK

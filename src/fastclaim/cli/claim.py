"""`fastclaim claim`: what agents call between two steps of their work, so it has to start fast."""

from __future__ import annotations

from ..errors import ClaimLost, TaskPoolError
from . import exits, options
from .answer import line, told, wants_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from ..claim import Claim
    from ..pool import TaskPool

ORDERS = ("priority", "oldest", "any")


def add_claim_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "task", metavar="TASK", nargs="?", help="which task; default: the next that suits the agent"
    )
    options.add_agent(parser)
    options.add_capabilities(parser)
    parser.add_argument(
        "--order",
        choices=ORDERS,
        help="which task is the next; default: priority, then age",
    )
    parser.add_argument(
        "--wait",
        metavar="S",
        type=options.seconds,
        help="how long to wait: for a task (default: not at all), or, with TASK, for others who are"
        " in the middle of claiming it (default: 10); inf: for ever",
    )
    parser.add_argument(
        "--lease",
        metavar="S",
        type=options.finite_seconds,
        help="after this time the claim is over, and recovery gives the task back; default: it"
        " stands until it is completed, released, failed, or recovered by its age",
    )
    options.add_pool(parser)
    options.add_json(parser)


def run_claim(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    if arguments.task is not None and (arguments.capabilities or arguments.order):
        raise exits.BadInput("--capability and --order choose a task; TASK has been chosen")
    claim = _claim(arguments)
    try:
        _tell(arguments, claim)
    except BaseException:
        _give_back(claim)
        raise
    return exits.OK


def _tell(arguments: argparse.Namespace, claim: Claim) -> None:
    if wants_json(arguments):
        line(told(claim.task))
    else:
        from .tables import print_task

        print_task("claimed", claim.task)


def _give_back(claim: Claim) -> None:
    """Release what nobody has heard of: it is bound to no process whose end would do it."""
    try:
        claim.release()
    except ClaimLost:
        pass
    except (TaskPoolError, OSError) as error:
        stays = f"task {claim.task_id!r} stays claimed by {claim.agent_id!r}: {error}"
        exits.complain("claim", exits.one_line(stays))


def _claim(arguments: argparse.Namespace) -> Claim:
    if not arguments.wait:
        return _claim_now(arguments)
    from .stopping import EndOfWait  # imports signal, for which others need not wait

    with EndOfWait():
        return _claim_now(arguments)


def _claim_now(arguments: argparse.Namespace) -> Claim:
    # Not bound to this process, which is about to end.
    settings = {"bind": False, "lease_s": arguments.lease}
    wait_s = arguments.wait or 0.0
    # Who does not wait has no use for being told, and the end of a watch takes longer than a claim.
    pool = options.open_or_new_pool(arguments, _ask_kernel=wait_s > 0)
    if arguments.task is not None:
        timeout_s = 10.0 if arguments.wait is None else arguments.wait
        return pool.claim(arguments.task, arguments.agent, timeout=timeout_s, **settings)
    claim = pool.claim_next(
        arguments.agent,
        arguments.capabilities,
        order=arguments.order or "priority",
        wait=None if wait_s == float("inf") else wait_s,
        **settings,
    )
    if claim is None:
        raise exits.Refusal(exits.NOT_DONE, f"nothing to claim{_because_of_a_pause(pool)}")
    return claim


def _because_of_a_pause(pool: TaskPool) -> str:
    from ..pausing import described_pause

    pause = pool.paused()
    return "" if pause is None else f": {exits.one_line(described_pause(pause))}"

"""Which commands there are, and their parsers.

A command `name` is a pair of functions in its module: ``add_name_arguments(parser)`` and
``run_name(arguments)``, which returns the exit status. Only the module of the command that is asked
for is imported: an agent that calls ``fastclaim`` between two steps of its work must not wait for
the others, nor for argparse.
"""

from __future__ import annotations

import sys

from . import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from types import ModuleType

PROG = "fastclaim"
DESCRIPTION = "Many agents, one directory of tasks, each task claimed by exactly one agent."

# Where each command is, and what it does.
COMMANDS = {
    "publish": ("publish", "publish tasks, from a JSONL file or from options"),
    "claim": ("claim", "claim a task: the one that is named, or the next one"),
    "complete": ("finish", "complete a claimed task"),
    "release": ("finish", "give a claimed task back, for anybody to claim"),
    "fail": ("finish", "say that an attempt at a claimed task failed"),
    "renew": ("finish", "prolong the lease of a claim"),
    "work": ("work", "run a command for each task: claim, run, complete"),
    "show": ("look", "show a task"),
    "list": ("look", "list the tasks in a state"),
    "mine": ("look", "list the tasks that an agent has claimed"),
    "why": ("look", "say why a task waits, or where it is"),
    "pause": ("gate", "let nobody claim anything for a while"),
    "resume": ("gate", "let agents claim again"),
    "status": ("status", "show counts, agents and what they hold, throughput, failures"),
    "watch": ("watch", "the same, live and full-screen, with keys to act on a task"),
    "events": ("events", "print one JSON line per state change"),
    "serve-metrics": ("metrics", "serve metrics for Prometheus, or write them to a file"),
    "recover": ("upkeep", "put back what agents that died have left"),
    "retry": ("upkeep", "let failed tasks be claimed again"),
    "prune": ("upkeep", "remove old tasks"),
    "migrate": ("migrate", "move a pool from a directory to PostgreSQL, or back"),
    "doctor": ("doctor", "show the version, the core and the pool, and what is wrong with them"),
    "demo": ("demo", "let agents fight over tasks, and show that each was claimed exactly once"),
    "bench": (
        "bench",
        "measure what a claim takes in a directory of yours, and what others take there",
    ),
    "completion": ("completion", "print a script that completes the command in a shell"),
}
# Those that agents call between two steps of their work, and are called most.
_OF_AGENTS = ("claim", "complete", "release", "fail", "renew")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments; ``command`` and ``debug`` among them, and ``run``, what runs the command.

    Raises
    ------
    SystemExit
        They make no sense (status 2), or only help or the version was asked for.
    """
    debug = argv[:1] == ["--debug"]
    rest = argv[1:] if debug else argv
    arguments = _parse_plainly(rest[0], rest[1:]) if rest and rest[0] in _OF_AGENTS else None
    if arguments is None:
        from . import parsers

        arguments = parsers.parse(argv, rest)
    arguments.debug = arguments.debug or debug
    return arguments


def _parse_plainly(name: str, words: Sequence[str]) -> argparse.Namespace | None:
    """A command's arguments; None if it takes argparse to understand them."""
    module = module_of(name)
    arguments = plain.parse(getattr(module, f"add_{name}_arguments"), words)
    if arguments is not None:
        run = getattr(module, f"run_{name}")
        vars(arguments).update(command=name, run=run, debug=False)
    return arguments


def module_of(name: str) -> ModuleType:
    """The module of a command."""
    # importlib is a package to be found and read for what one call does.
    module = f"{__package__}.{COMMANDS[name][0]}"
    __import__(module)
    return sys.modules[module]


def version() -> str:
    """The version of the distribution that this package is installed from."""
    from importlib import metadata

    try:
        return metadata.version("fastclaim")
    except metadata.PackageNotFoundError:
        return "unknown (run from a source tree)"

"""Which commands there are, and their parsers.

A command `name` is a pair of functions in its module: ``add_name_arguments(parser)`` and
``run_name(arguments)``, which returns the exit status. Only the module of the command that is asked
for is imported: an agent that calls ``fastclaim`` between two steps of its work must not wait for
the others.
"""

from __future__ import annotations

import argparse
import os
import sys

from . import exits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType
    from typing import Any, Never

# argparse has gettext look for translations of its few words in the file system, in vain, and anew
# for each parser: that takes longer than all the rest of the parsing.
vars(argparse)["_"] = str

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


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments; ``command`` and ``debug`` among them, and ``run``, what runs the command.

    Raises
    ------
    SystemExit
        They make no sense (status 2), or only help or the version was asked for.
    """
    debug = argv[:1] == ["--debug"]
    rest = argv[1:] if debug else argv
    if not rest or rest[0] not in COMMANDS:
        _refuse(argv)
    arguments = command_parser(rest[0]).parse_args(rest[1:])
    arguments.debug = arguments.debug or debug
    return arguments


def command_parser(name: str) -> argparse.ArgumentParser:
    """The parser for what comes after a command's name."""
    summary = COMMANDS[name][1]
    parser = argparse.ArgumentParser(
        prog=f"{PROG} {name}",
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog="exit status: "
        + ", ".join(f"{status} {meaning}" for status, meaning in exits.EXPLAINED.items()),
        allow_abbrev=False,
        formatter_class=_Formatter,
    )
    module, verb = _module_of(name), name.replace("-", "_")
    getattr(module, f"add_{verb}_arguments")(parser)
    _add_debug(parser)
    parser.set_defaults(command=name, run=getattr(module, f"run_{verb}"))
    return parser


def version() -> str:
    """The version of the distribution that this package is installed from."""
    from importlib import metadata

    try:
        return metadata.version("fastclaim")
    except metadata.PackageNotFoundError:
        return "unknown (run from a source tree)"


def _module_of(name: str) -> ModuleType:
    # importlib is a package to be found and read for what one call does.
    module = f"{__package__}.{COMMANDS[name][0]}"
    __import__(module)
    return sys.modules[module]


def _add_debug(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--debug", action="store_true", help="on an error, show the traceback of what went wrong"
    )


def _refuse(argv: Sequence[str]) -> Never:
    """Answer arguments that begin with no command: help, the version, or a usage error."""
    parser = argparse.ArgumentParser(
        prog=PROG, description=DESCRIPTION, allow_abbrev=False, formatter_class=_Formatter
    )
    parser.add_argument("--version", action=_ShowVersion, help="show the version and exit")
    _add_debug(parser)
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    for name, (_, summary) in COMMANDS.items():
        commands.add_parser(name, help=summary)
    parser.parse_args(argv)
    parser.print_help(sys.stderr)
    sys.exit(exits.BAD_INPUT)


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str, **settings: Any) -> None:
        # argparse asks a formatter about each argument; with no width that imports shutil, which
        # takes longer than all the rest.
        settings.setdefault("width", _columns() - 2)
        super().__init__(prog, **settings)


def _columns() -> int:
    try:
        return int(os.environ.get("COLUMNS", "")) or 80
    except ValueError:
        pass
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80


class _ShowVersion(argparse.Action):
    """Looks the version up only when it is asked for: that takes longer than all the rest."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, nargs=0, **kwargs)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"{PROG} {version()}")
        parser.exit()

"""The command `fastclaim`: picks a subcommand, runs it, and turns errors into exit statuses.

Each subcommand is a module here with ``add_arguments(parser)`` and ``run(arguments)``, which
returns the exit status. Only the module of the subcommand that is asked for is imported: an agent
that calls ``fastclaim`` between two steps of its work must not wait for the others.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, Final

from ..errors import TaskPoolError
from . import exits

COMMANDS: Final = {
    "demo": "let agents fight over tasks, and show that each was claimed exactly once",
    "doctor": "show the version, the core and the pool that would be used",
    "migrate": "move a pool from a directory to PostgreSQL, or back",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; default: those of this process.

    Returns
    -------
    int
        The exit status; see `fastclaim.cli.exits`.

    Raises
    ------
    SystemExit
        The arguments make no sense (status 2), or only help or the version was asked for.
    """
    argv = sys.argv[1:] if argv is None else argv
    _print_whatever_comes()
    parser = _parser(argv)
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help(sys.stderr)
        return exits.BAD_INPUT
    status = _run(arguments)
    _flush_or_let_go()
    return status


def _run(arguments: argparse.Namespace) -> int:
    try:
        status: int = arguments.run(arguments)
        # Here, where a full disk or a closed pipe still is an error that can be told.
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return exits.SIGNALLED + signal.SIGINT
    except exits.Terminated as end:
        return exits.SIGNALLED + end.signal_number
    except BrokenPipeError:
        return exits.SIGNALLED + signal.SIGPIPE
    except Exception as error:
        if arguments.debug:
            raise
        status, reason = _explain(error)
        print(f"fastclaim {arguments.command}: {reason}", file=sys.stderr)
        return status


def _explain(error: Exception) -> tuple[int, str]:
    """The exit status and the one line for an error."""
    if isinstance(error, exits.BadInput | TaskPoolError):
        return exits.BAD_INPUT, str(error)
    if isinstance(error, OSError):
        return exits.SYSTEM, os_error_text(error)
    problem = f"{type(error).__name__}: {error}".splitlines()[0]
    return exits.INTERNAL, f"a bug in fastclaim; --debug shows where: {problem}"


def os_error_text(error: OSError) -> str:
    """A system error as a shell would word it: the file, then the reason."""
    reason = error.strerror or str(error)
    if error.filename is None:
        return reason
    name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
    return f"{name}: {reason}"


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastclaim",
        description="Many agents, one directory of tasks, each task claimed by exactly one agent.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_ShowVersion, help="show the version and exit")
    parser.add_argument(
        "--debug", action="store_true", help="on an error, show the traceback of what went wrong"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=exits.EXPLAINED,
            allow_abbrev=False,
        )
        if name in argv:
            module = importlib.import_module(f".{name}", __name__)
            module.add_arguments(command)
            command.set_defaults(run=module.run)
        # Not its own default: that would undo a --debug that stands before the command.
        command.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
    return parser


def version() -> str:
    """The version of the distribution that this package is installed from."""
    from importlib import metadata

    try:
        return metadata.version("fastclaim")
    except metadata.PackageNotFoundError:
        return "unknown (run from a source tree)"


class _ShowVersion(argparse.Action):
    """Looks the version up only when it is asked for: that takes longer than all the rest."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, nargs=0, **kwargs)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"fastclaim {version()}")
        parser.exit()


def _print_whatever_comes() -> None:
    """Let no task's text end the command because the terminal's encoding lacks a letter of it."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def _flush_or_let_go() -> None:
    """Keep the interpreter from complaining, at its end, about output that nobody will read."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)

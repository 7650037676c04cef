"""docs/cli.md, made from the parsers: ``python -m fastclaim.cli.reference >docs/cli.md``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator

from . import exits, options
from .commands import COMMANDS, DESCRIPTION, PROG
from .parsers import command_parser

_HEAD = f"""\
# The command `{PROG}`

{DESCRIPTION} This page is made from the command's own parsers, by
`python -m fastclaim.cli.reference >docs/cli.md`.

    {PROG} [--debug] COMMAND ...
    {PROG} --version | --help
    {PROG} COMMAND --help

Where the standard output is not a terminal, or with `--json`, answers are one JSON value a line;
else they are sentences and tables. Errors are one line on the standard error; where somebody else
holds the task, it names the holder. `--debug` shows the traceback instead.

Lengths of time are seconds, or a number with a unit: `90s`, `10m`, `2h`, `7d`.
"""


def reference() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *_exit_statuses(), *_commands()])


def _exit_statuses() -> Iterator[str]:
    yield "## Exit status\n"
    yield "| status | means |"
    yield "|---:|---|"
    for status, meaning in exits.EXPLAINED.items():
        number = f"{status}+" if status == exits.SIGNALLED else f"{status}"
        yield f"| {number} | {meaning} |"
    yield ""


def _commands() -> Iterator[str]:
    for name in COMMANDS:
        parser = command_parser(name)
        actions = [action for action in parser._actions if action.dest not in ("help", "debug")]
        yield f"## {PROG} {name}\n"
        words = [_usage(action) for action in sorted(actions, key=_takes_the_rest)]
        yield f"    {' '.join([PROG, name, *words])}\n"
        yield f"{parser.description}\n"
        for action in actions:
            yield f" - `{_signature(action)}`: {_help(action)}"
        if actions:
            yield ""


def _takes_the_rest(action: argparse.Action) -> bool:
    """Whether whatever comes behind it is its own."""
    return action.nargs == argparse.REMAINDER


def _usage(action: argparse.Action) -> str:
    if _takes_the_rest(action):
        return _metavar(action)
    text = _signature(action, short=True)
    repeated = "..." if isinstance(action, argparse._AppendAction) else ""
    needed = action.required if action.option_strings else action.nargs != "?"
    if text.split()[0] in options.FROM_ENVIRONMENT:
        needed = False
    return f"{text}{repeated}" if needed else f"[{text}]{repeated}"


def _signature(action: argparse.Action, short: bool = False) -> str:
    if not action.option_strings:
        return _metavar(action)
    names = action.option_strings[-1] if short else ", ".join(action.option_strings)
    return names if action.nargs == 0 else f"{names} {_metavar(action)}"


def _metavar(action: argparse.Action) -> str:
    if action.metavar is not None:
        return f"{action.metavar}"
    return "|".join(map(str, action.choices)) if action.choices else action.dest.upper()


def _help(action: argparse.Action) -> str:
    return (action.help or "").replace("%%", "%")


def main() -> None:
    """Print the page."""
    # What is a default here must not become one there.
    for variable in (options.AGENT_VARIABLE, options.TASK_VARIABLE):
        os.environ.pop(variable, None)
    print(reference(), end="")


if __name__ == "__main__":
    main()

"""The parsers of the commands, and what is said where there is no command."""

from __future__ import annotations

import argparse
import difflib
import itertools
import os
import sys

from . import exits, options
from .commands import COMMANDS, DESCRIPTION, PROG, module_of, version

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Never

# How argparse begins what it complains of.
_REQUIRED = "the following arguments are required: "
_UNRECOGNIZED = "unrecognized arguments: "
# What somebody mistypes for something else is more like it than --reason is like --json.
_ALIKE = 0.7

# argparse has gettext look for translations of its few words in the file system, in vain, and anew
# for each parser: that takes longer than all the rest of the parsing.
vars(argparse)["_"] = lambda text: text


def parse(argv: Sequence[str], rest: Sequence[str]) -> argparse.Namespace:
    """The arguments; `rest`: those after a ``--debug`` that comes before the command."""
    if not rest or rest[0] not in COMMANDS:
        _refuse(argv)
    return command_parser(rest[0]).parse_args(rest[1:])


def command_parser(name: str) -> argparse.ArgumentParser:
    """The parser for what comes after a command's name."""
    summary = COMMANDS[name][1]
    parser = _Parser(
        prog=f"{PROG} {name}",
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog="exit status: "
        + ", ".join(f"{status} {meaning}" for status, meaning in exits.EXPLAINED.items()),
        allow_abbrev=False,
        formatter_class=_Formatter,
    )
    module, verb = module_of(name), name.replace("-", "_")
    getattr(module, f"add_{verb}_arguments")(parser)
    _add_debug(parser)
    parser.set_defaults(command=name, run=getattr(module, f"run_{verb}"))
    return parser


def _add_debug(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--debug", action="store_true", help="on an error, show the traceback of what went wrong"
    )


def _refuse(argv: Sequence[str]) -> Never:
    """Answer arguments that begin with no command: help, the version, or a usage error."""
    parser = _Parser(
        prog=PROG, description=DESCRIPTION, allow_abbrev=False, formatter_class=_Formatter
    )
    parser.add_argument("--version", action=_ShowVersion, help="show the version and exit")
    _add_debug(parser)
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    for name, (_, summary) in COMMANDS.items():
        commands.add_parser(name, help=summary)
    word = next((word for word in argv if word != "--debug"), None)
    if word is not None and not word.startswith("-"):
        close = difflib.get_close_matches(word, COMMANDS, n=1)
        parser.error(f"no command {word!r}" + "".join(f"; did you mean {name}?" for name in close))
    if word is not None and word not in parser._option_string_actions:
        parser.error(f"{word}: options come after a command")
    parser.parse_args(argv)
    parser.print_help(sys.stderr)
    sys.exit(exits.BAD_INPUT)


class _Parser(argparse.ArgumentParser):
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does it; an error can look at the words once more."""
        self._words: Sequence[str] = args
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> Never:
        """One line, as for every other error; the usage is what --help is for."""
        meant = self._meant(message)
        if message.startswith(_REQUIRED):
            message = _with_variables(message)
        message += meant
        line = f"{self.prog}: {exits.one_line(message)} (see {self.prog} --help)\n"
        self.exit(exits.BAD_INPUT, line)

    def _print_message(self, message: str, file: Any = None) -> None:
        """As argparse does it, but that help which cannot be written is an error."""
        if file is sys.stdout:
            file.write(message)
        else:
            super()._print_message(message, file)

    def _meant(self, message: str) -> str:
        """What may be meant by an option that there is not, or one argument too many."""
        if message.startswith(_REQUIRED):
            unknown = self._unknown_option()
            return "" if unknown is None else f"; there is no {unknown}{self._closest(unknown)}"
        if not message.startswith(_UNRECOGNIZED):
            return ""
        word = message.removeprefix(_UNRECOGNIZED).split(" ")[0]
        if word.startswith("-"):
            return self._closest(word)
        return "".join(
            f"; one {action.metavar} is taken" for action in self._optional_positionals()
        )

    def _unknown_option(self) -> str | None:
        """The first word that looks like an option, and is none."""
        for word in itertools.takewhile(lambda word: word != "--", self._words):
            name = word.partition("=")[0]
            if name.startswith("--") and name not in self._option_string_actions:
                return name
        return None

    def _closest(self, word: str) -> str:
        """Which option is meant, perhaps; the dashes, which all of them have, do not count."""
        names = {name.lstrip("-"): name for name in self._option_string_actions}
        given = word.partition("=")[0].lstrip("-")
        close = difflib.get_close_matches(given, names, n=1, cutoff=_ALIKE)
        return "".join(f"; did you mean {names[name]}?" for name in close)

    def _optional_positionals(self) -> list[argparse.Action]:
        """The positional arguments that may be left out, of which there is one at most."""
        return [action for action in self._positionals._group_actions if action.nargs == "?"]


def _with_variables(message: str) -> str:
    """What is required, and where else it may come from."""
    names = message.removeprefix(_REQUIRED).split(", ")
    variables = options.FROM_ENVIRONMENT
    return _REQUIRED + ", ".join(
        f"{name} (or ${variables[name]})" if name in variables else name for name in names
    )


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

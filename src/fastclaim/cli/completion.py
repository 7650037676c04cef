"""`fastclaim completion`: scripts that let a shell complete the command, made from its parsers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Final, NamedTuple

from . import exits
from .commands import COMMANDS, PROG
from .parsers import command_parser


def add_completion_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("shell", choices=tuple(_SCRIPTS), help="which shell")


def run_completion(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    sys.stdout.write(_SCRIPTS[arguments.shell]())
    return exits.OK


class _Option(NamedTuple):
    names: tuple[str, ...]
    choices: tuple[str, ...]
    takes_value: bool
    help: str


class _Words(NamedTuple):
    """What may follow a command's name."""

    options: list[_Option]
    choices: tuple[str, ...]  # of its positional argument


def _commands() -> Iterator[tuple[str, str, _Words]]:
    """Each command's name, summary and words."""
    for name, (_, summary) in COMMANDS.items():
        options: list[_Option] = []
        choices: tuple[str, ...] = ()
        for action in command_parser(name)._actions:
            found = tuple(map(str, action.choices or ()))
            if action.option_strings:
                takes_value = action.nargs != 0
                text = (action.help or "").partition(";")[0].partition(": ")[0]
                options.append(_Option(tuple(action.option_strings), found, takes_value, text))
            else:
                choices = choices or found
        yield name, summary, _Words(options, choices)


def _bash() -> str:
    words, values = [], []
    for name, _, found in _commands():
        names = [each for option in found.options for each in option.names]
        words.append(f"        {name}) words='{' '.join([*names, *found.choices])}' ;;")
        for option in found.options:
            if option.takes_value:
                keys = "|".join(f"{name}:{each}" for each in option.names)
                values.append(f"        {keys}) words='{' '.join(option.choices)}' ;;")
    return _BASH.format(
        prog=PROG, names=" ".join(COMMANDS), words="\n".join(words), values="\n".join(values)
    )


_BASH: Final = """\
# {prog} completion bash >~/.local/share/bash-completion/completions/{prog}
_{prog}() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD - 1]}} words=
    COMPREPLY=()
    if [ "$COMP_CWORD" -gt 1 ] && [ "${{COMP_WORDS[1]}}" = --debug ]; then
        # What comes before a command is none of its words.
        local -a COMP_WORDS=("${{COMP_WORDS[0]}}" "${{COMP_WORDS[@]:2}}")
        local COMP_CWORD=$((COMP_CWORD - 1))
    fi
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W '{names} --debug --version --help' -- "$current"))
        return
    fi
    case ${{COMP_WORDS[1]}} in
{words}
    esac
    case ${{COMP_WORDS[1]}}:$previous in
{values}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _{prog} {prog}
"""


def _zsh() -> str:
    names = [f"        {_quote(f'{name}:{summary}')}" for name, summary, _ in _commands()]
    cases = []
    for name, _, found in _commands():
        specs = [_zsh_spec(option) for option in found.options]
        if found.choices:
            specs.append(_quote(f"1: :({' '.join(found.choices)})"))
        specs.append("'*: :_files'")
        cases.append(f"        {name}) _arguments {' '.join(specs)} ;;")
    return _ZSH.format(prog=PROG, names="\n".join(names), cases="\n".join(cases))


def _zsh_spec(option: _Option) -> str:
    text = option.help.replace("[", "(").replace("]", ")")
    value = ""
    if option.takes_value:
        value = f": :({' '.join(option.choices)})" if option.choices else ": :_files"
    # Several times: --capability, and no harm with the others.
    return " ".join(_quote(f"*{name}[{text}]{value}") for name in option.names)


_ZSH: Final = """\
#compdef {prog}
# {prog} completion zsh >"${{fpath[1]}}/_{prog}"
_{prog}() {{
    local -a commands=(
{names}
    )
    if ((CURRENT > 2)) && [[ $words[2] == --debug ]]; then
        words[2]=()
        ((CURRENT--))
    fi
    if ((CURRENT == 2)); then
        commands+=('--debug:show the traceback of an error')
        _describe command commands
        return
    fi
    local command=${{words[2]}}
    shift words
    ((CURRENT--))
    case $command in
{cases}
    esac
}}
if [[ $funcstack[1] == _{prog} ]]; then _{prog} "$@"; else compdef _{prog} {prog}; fi
"""


def _fish() -> str:
    lines = [
        f"# {PROG} completion fish >~/.config/fish/completions/{PROG}.fish",
        f"complete -c {PROG} -n __fish_use_subcommand -f",
        f"complete -c {PROG} -n __fish_use_subcommand -l debug -d 'show the traceback of an error'",
    ]
    for name, summary, found in _commands():
        lines.append(f"complete -c {PROG} -n __fish_use_subcommand -a {name} -d {_quote(summary)}")
        seen = f"complete -c {PROG} -n '__fish_seen_subcommand_from {name}'"
        for option in found.options:
            names = " ".join(
                f"-l {each[2:]}" if each.startswith("--") else f"-s {each[1:]}"
                for each in option.names
            )
            value = " -r" if option.takes_value else ""
            if option.choices:
                value = f" -x -a '{' '.join(option.choices)}'"
            lines.append(f"{seen} {names}{value} -d {_quote(option.help)}")
        if found.choices:
            lines.append(f"{seen} -f -a '{' '.join(found.choices)}'")
    return "\n".join(lines) + "\n"


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


_SCRIPTS: Final = {"bash": _bash, "zsh": _zsh, "fish": _fish}

"""What the library advises to call, in the words of a command line."""

from __future__ import annotations

import shlex

from .. import layout
from . import options

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

# A method that the library names, and the command that does it.
_COMMANDS = {
    "recover()": "recover",
    "recover(older_than=...)": "recover --older-than S",
    "retry_failed()": "retry --all",
    "resume()": "resume",
}
# What `TaskPool.why` says of a task, after its name, with a method in it. All else that a sentence
# of its holds may be what users have written.
_HAS_FAILED = "has failed for good (retry_failed()"
_IS_HALF_CLAIMED = "stands in available/ with the status 'claimed', which recover()"
_WAITS_FOR = "waits for "
_FOR_ONE_THAT_FAILED = " (failed for good; see retry_failed())"


def in_commands(advice: str, arguments: argparse.Namespace) -> str:
    """The same advice, but that it names commands, each for the pool that is meant."""
    for method, command in _COMMANDS.items():
        advice = advice.replace(method, _command(arguments, command))
    return advice


def sentence_in_commands(sentence: str, task_id: str, arguments: argparse.Namespace) -> str:
    """The same of a sentence about a task, such as those of `TaskPool.why`."""
    name = f"task {task_id!r} "
    said = sentence.removeprefix(name)
    if said.startswith(_HAS_FAILED):
        return name + said.replace("retry_failed()", _command(arguments, "retry", task_id), 1)
    if said.startswith(_IS_HALF_CLAIMED):
        return name + said.replace("recover()", _command(arguments, "recover"), 1)
    if said.startswith(_WAITS_FOR) and said.endswith(_FOR_ONE_THAT_FAILED):
        blocker = said.removeprefix(_WAITS_FOR).removesuffix(_FOR_ONE_THAT_FAILED)
        retry = _command(arguments, "retry", blocker)
        return sentence.removesuffix("retry_failed())") + f"{retry})"
    return sentence


def _command(arguments: argparse.Namespace, command: str, *words: str) -> str:
    """A command as it can be pasted into a shell, but for a password in the pool's URL."""
    pool = ""
    if arguments.pool is not None:
        pool = f" --pool {shlex.quote(layout.shown(options.pool_name(arguments)))}"
    return f"`{' '.join(['fastclaim', command, *map(shlex.quote, words)])}{pool}`"

"""The command `fastclaim`: runs what `commands` parses, and turns errors into exit statuses."""

from __future__ import annotations

import atexit
import os
import sys

from ..errors import ClaimLost, TaskNotAvailable, TaskPoolError
from . import answer, commands, exits

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import Any, Never

# By number: to import signal takes longer than to say what they are.
_SIGINT = 2
_SIGPIPE = 13


def console() -> Never:
    """Run the command as a process of its own, and end that process.

    Without taking the interpreter apart, piece by piece, which takes longer than a claim: what is
    registered for the end is called, and the kernel frees the rest.
    """
    status = main()
    atexit._run_exitfuncs()
    os._exit(status)


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
    if None in (sys.stdin, sys.stdout, sys.stderr):
        from . import streams

        streams.stand_in_for_closed()
    _print_whatever_comes()
    try:
        arguments = commands.parse(sys.argv[1:] if argv is None else argv)
    except SystemExit:
        problem = _flush_or_let_go()
        if problem is None:
            raise
        return _unwritten(problem)
    except OSError as error:  # the version is what it prints itself
        _flush_or_let_go()
        return _unwritten(error)
    status = _run(arguments)
    _flush_or_let_go()
    return status


def _run(arguments: argparse.Namespace) -> int:
    try:
        status: int = arguments.run(arguments)
        # Here, where a full disk or a closed pipe still is an error that can be told.
        _flush()
        return status
    except KeyboardInterrupt:
        return exits.SIGNALLED + _SIGINT
    except exits.Terminated as end:
        return exits.SIGNALLED + end.signal_number
    except BrokenPipeError:
        return exits.SIGNALLED + _SIGPIPE
    except Exception as error:
        status, reason = _explain(error, arguments)
        if arguments.debug:
            _show_traceback(error)
        else:
            exits.complain(arguments.command, reason)
        return status


def _show_traceback(error: Exception) -> None:
    import traceback

    try:
        traceback.print_exception(error)
    except OSError:
        pass


def _unwritten(problem: OSError) -> int:
    """The exit status where the help or the version cannot be printed."""
    if isinstance(problem, BrokenPipeError):
        return exits.SIGNALLED + _SIGPIPE
    problem.filename = answer.STANDARD_OUTPUT
    exits.complain(None, os_error_text(problem))
    return exits.SYSTEM


def _explain(error: Exception, arguments: argparse.Namespace) -> tuple[int, str]:
    """The exit status and the one line for an error."""
    if isinstance(error, exits.Refusal):
        return error.status, exits.one_line(str(error))
    if isinstance(error, TaskPoolError):
        if isinstance(error, TaskNotAvailable | ClaimLost) and error.task_id is not None:
            return _explain_absence(error, arguments)
        return exits.status_of(error), exits.sentence_of(error)
    if isinstance(error, OSError):
        return exits.SYSTEM, os_error_text(error)
    problem = exits.one_line(f"{type(error).__name__}: {error}")
    return exits.INTERNAL, f"a bug in fastclaim; --debug shows where: {problem}"


def _explain_absence(error: TaskPoolError, arguments: argparse.Namespace) -> tuple[int, str]:
    """What a task that is not there, or not the agent's, is instead: unknown, or somebody's."""
    from . import lookup, options

    try:
        found = list(lookup.find(options.open_pool(arguments), error.task_id))
    except TaskPoolError as other:
        # A name that is too long for some state's file, or a file that is no task.
        return exits.status_of(other), exits.sentence_of(other)
    except OSError as other:
        return exits.SYSTEM, os_error_text(other)
    if not found:
        return exits.NO_SUCH_TASK, f"no task {error.task_id!r} in the pool"
    for state, task in found:
        if error.holder is None and state == "claimed":
            error.holder = task.get("claimed_by")
    return exits.status_of(error), _with_state(error, *found[0], arguments)


def _with_state(
    error: TaskPoolError, state: str, task: dict[str, Any], arguments: argparse.Namespace
) -> str:
    """What a verb refused, and what has become of the task, should the error not say it."""
    from . import advice

    said = advice.sentence_in_commands(exits.sentence_of(error), f"{error.task_id}", arguments)
    # Of what waits and is not claimed all the same, the error says more than that.
    if error.holder is not None or (arguments.command == "claim" and state == "available"):
        return said
    by = f" by {task['claimed_by']!r}" if "claimed_by" in task else ""
    now = {
        "available": "it is available",
        "completed": f"it is completed{by}",
        "failed": "it has failed for good",
    }
    return exits.one_line(f"{said}; {now[state]}") if state in now else said


def os_error_text(error: OSError) -> str:
    """A system error as a shell would word it: the file, then the reason."""
    reason = error.strerror or str(error)
    if error.filename is None:
        return exits.one_line(reason)
    name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
    return exits.one_line(f"{name}: {reason}")


def _print_whatever_comes() -> None:
    """Let no task's text end the command because the terminal's encoding lacks a letter of it."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _flush() -> None:
    try:
        sys.stdout.flush()
    except OSError as error:
        error.filename = answer.STANDARD_OUTPUT
        raise


def _flush_or_let_go() -> OSError | None:
    """Keep the interpreter from complaining, at its end, about output that nobody will read."""
    try:
        sys.stdout.flush()
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return error
    return None

"""Arguments that several commands share, and the pool that they name.

Nothing here imports what `fastclaim claim` does not need.
"""

from __future__ import annotations

import errno
import os

from .. import layout
from ..pool import TaskPool
from .exits import BadInput, complain, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any

DIRECTORIES_ONLY = "this works with pools in a directory only"
AGENT_VARIABLE = "FASTCLAIM_AGENT"
TASK_VARIABLE = "FASTCLAIM_TASK_ID"
# What may be left out where a variable has it.
FROM_ENVIRONMENT = {"--agent": AGENT_VARIABLE, "TASK": TASK_VARIABLE}

_SECONDS_PER_UNIT = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add_pool(parser: argparse.ArgumentParser) -> None:
    """``--pool``: which pool is meant."""
    parser.add_argument(
        "--pool",
        metavar="PATH|URL",
        help="the pool's directory, or postgresql://...;"
        f" default: ${layout.BASE_DIR_VARIABLE}, or {layout.DEFAULT_BASE_DIR}",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """``--json``: for programs, also on a terminal."""
    parser.add_argument(
        "--json",
        action="store_true",
        help="one JSON value a line; that is the default where stdout is not a terminal",
    )


def add_task(parser: argparse.ArgumentParser) -> None:
    """The task's id, as the only positional argument."""
    given = os.environ.get(TASK_VARIABLE)
    parser.add_argument(
        "task",
        metavar="TASK",
        nargs="?" if given else None,
        default=given,
        help=f"the task's id; default: ${TASK_VARIABLE}, which `fastclaim work` sets",
    )


def add_agent(parser: argparse.ArgumentParser) -> None:
    """``--agent``: on whose behalf."""
    given = os.environ.get(AGENT_VARIABLE)
    parser.add_argument(
        "--agent",
        metavar="A",
        type=not_empty,
        required=not given,
        default=given,
        help=f"the agent's id; default: ${AGENT_VARIABLE}, which `fastclaim work` sets",
    )


def add_capabilities(parser: argparse.ArgumentParser) -> None:
    """``--capability``: what the agent can do."""
    parser.add_argument(
        "--capability",
        metavar="C",
        dest="capabilities",
        action="append",
        default=[],
        help="something that the agent can do; may be given several times",
    )


def not_empty(text: str) -> str:
    """A name; not what ``--agent "$AGENT"`` gives without that variable."""
    if not text:
        raise _type_error("the name is empty")
    return text


def seconds(text: str) -> float:
    """A length of time: ``1.5``, ``90s``, ``10m``, ``2h``, ``7d`` or ``inf``."""
    number, unit = text, 1
    if text[-1:] in _SECONDS_PER_UNIT:
        number, unit = text[:-1], _SECONDS_PER_UNIT[text[-1]]
    try:
        value = float(number) * unit
    except ValueError:
        value = -1.0
    if not value >= 0:  # nor NaN
        raise _type_error(f"{text!r} is not a length of time such as 1.5, 90s, 10m, 2h or 7d")
    return value


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """The type of a whole number from `least` on, and no more than `most`."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least or (most is not None and number > most):
            bounds = f"from {least} on" if most is None else f"from {least} to {most}"
            raise _type_error(f"{text!r} is not a whole number {bounds}")
        return number

    return parse


def _type_error(message: str) -> argparse.ArgumentTypeError:
    import argparse

    return argparse.ArgumentTypeError(message)


def finite_seconds(text: str) -> float:
    """A length of time that has an end."""
    value = seconds(text)
    if value == float("inf"):
        raise _type_error(f"{text!r} has no end")
    return value


def pool_name(arguments: argparse.Namespace) -> str:
    """The pool that is meant: a path, absolute, or a URL.

    Raises
    ------
    BadInput
        It is a URL of nothing that we know.
    """
    if arguments.pool == "":
        # What `--pool "$POOL"` gives without that variable; nobody means the working directory.
        raise BadInput("--pool: the name is empty")
    name = arguments.pool or layout.default_base_dir()
    if layout.is_url(name):
        return name
    scheme, is_url, _ = name.partition("://")
    if is_url:
        # Only so much of it: there may be a password further on.
        raise BadInput(f"{scheme}://...: a pool is a directory, or postgresql://...")
    return os.path.abspath(name)


def open_pool(arguments: argparse.Namespace, **settings: Any) -> TaskPool:
    """The pool that is meant; made if it is not there.

    Raises
    ------
    BadInput
        It would have to be made inside a pool.
    OSError
        It cannot be made, or cannot be reached.
    """
    name = pool_name(arguments)
    _is_new(name)
    return _pool(name, settings)


def open_or_new_pool(arguments: argparse.Namespace, **settings: Any) -> TaskPool:
    """The same for commands that agents run, which may rightly be there before any task.

    But a mistyped name has to be seen: if a pool is made, they say so on stderr.
    """
    name = pool_name(arguments)
    is_new = _is_new(name)
    pool = _pool(name, settings)
    if is_new:
        complain(arguments.command, one_line(f"{name}: there was no pool; made a new one"))
    return pool


def _is_new(name: str) -> bool:
    """Whether there is no such pool yet; refuses the directory in which a pool has its tasks."""
    if layout.is_url(name) or os.path.exists(os.path.join(name, "tasks")):
        return False
    states = (layout.AVAILABLE, layout.CLAIMED)
    if all(os.path.isdir(os.path.join(name, state)) for state in states):
        above = os.path.dirname(name)
        raise BadInput(one_line(f"{name}: that is inside a pool; the pool is {above}"))
    return True


def existing_pool(arguments: argparse.Namespace, **settings: Any) -> TaskPool:
    """The pool that is meant; for commands that have nothing to do in a new one.

    Raises
    ------
    OSError
        There is none.
    """
    name = pool_name(arguments)
    # A mistyped name must not leave directories or tables behind.
    if not layout.is_url(name):
        check_is_there(name)
    return _pool(name, settings, must_exist=True)


def _pool(name: str, settings: dict[str, Any], must_exist: bool = False) -> TaskPool:
    try:
        if must_exist and layout.is_url(name):
            from ..postgres.pool import PostgresPool

            return PostgresPool(name, _must_exist=True, **settings)
        return TaskPool(name, **settings)
    except ImportError as error:
        if not layout.is_url(name):
            raise
        raise BadInput("this needs psycopg: install fastclaim[postgres]") from error


def check_is_there(base_dir: str) -> None:
    """Raise OSError unless the directory is a pool's."""
    try:
        os.stat(os.path.join(base_dir, "tasks"))
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "there is no pool", base_dir) from None


def directory_pool(arguments: argparse.Namespace) -> TaskPool:
    """The pool that is meant, for commands that look at its files.

    Raises
    ------
    BadInput
        It is a database.
    OSError
        There is none.
    """
    if layout.is_url(pool_name(arguments)):
        raise BadInput(DIRECTORIES_ONLY)
    return existing_pool(arguments)

"""`fastclaim doctor`: the version, the core, the pool, and what is wrong. Changes nothing."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Final

from .. import core, layout, listing
from ..diagnosis import Finding
from . import answer, exits, options, os_error_text
from .advice import in_commands
from .commands import version
from .output import Row, screen

_EXTENSION: Final = "fastclaim._transition_c"

OK: Final = "ok"
ERROR: Final = "error"


def add_doctor_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    options.add_pool(parser)
    options.add_json(parser)


def run_doctor(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    findings = list(_findings(arguments))
    if answer.wants_json(arguments):
        for finding in findings:
            answer.line(finding._asdict())
    else:
        _print(findings)
    levels = {finding.level for finding in findings}
    return exits.WRONG if ERROR in levels else exits.OK


def _print(findings: list[Finding]) -> None:
    out = screen()
    fine = [finding for finding in findings if finding.level == OK]
    out.rows([Row(finding.check, exits.one_line(finding.message)) for finding in fine])
    for finding in findings:
        if finding.level != OK:
            advice = [exits.one_line(finding.advice)] if finding.advice else []
            said = f"{finding.level}: {finding.check}: {finding.message}"
            out.bad(exits.one_line(said), advice)


def _findings(arguments: argparse.Namespace) -> Iterator[Finding]:
    python = f"{sys.implementation.name} {sys.version.partition(' ')[0]}"
    yield Finding(OK, "version", version())
    yield Finding(OK, "python", f"{python} {sys.executable}")
    yield Finding(OK, "core", f"{core}, {_why_this_core()}")
    name = options.pool_name(arguments)
    yield Finding(OK, "pool", f"{layout.shown(name)}, {_why_this_pool(arguments)}")
    try:
        if not layout.is_url(name):
            yield Finding(OK, "tasks", _contents(name))
        if layout.is_url(name) or os.path.isdir(os.path.join(name, "tasks")):
            found = options.open_pool(arguments).doctor()
            yield from (_by_command(each, arguments) for each in found if each.check != "core")
    except OSError as error:
        yield Finding(
            ERROR, "tasks", f"cannot be read: {os_error_text(error)}", "--pool names another pool"
        )


def _by_command(finding: Finding, arguments: argparse.Namespace) -> Finding:
    """The same, but that its advice names commands."""
    return finding._replace(advice=in_commands(finding.advice, arguments))


def _why_this_core() -> str:
    if core == "c":
        return "compiled"
    if os.environ.get("FASTCLAIM_NO_EXTENSIONS") == "1":
        return "because FASTCLAIM_NO_EXTENSIONS=1"
    if find_spec(_EXTENSION) is None:
        return "because the compiled one was not built: an install without a working C compiler"
    try:
        import_module(_EXTENSION)
    except ImportError as error:
        return f"because the compiled one cannot be loaded: {error}"
    return "though the compiled one can be loaded"


def _why_this_pool(arguments: argparse.Namespace) -> str:
    if arguments.pool is not None:
        return "as --pool says"
    given = os.environ.get(layout.BASE_DIR_VARIABLE)
    return f"{layout.BASE_DIR_VARIABLE} is {'set' if given else 'not set: the default'}"


def _contents(base_dir: str) -> str:
    """How many tasks are in each state; `TaskPool` would make the directories."""
    tasks_dir = os.path.join(base_dir, "tasks")
    # Not exists(), which takes a directory that may not be entered for one that is not there.
    try:
        os.stat(tasks_dir)
    except FileNotFoundError:
        return "none: there is no such pool yet"
    found = []
    for state in layout.STATES:
        directory = os.fsencode(os.path.join(tasks_dir, state))
        found.append(f"{sum(1 for _ in listing.task_files(directory)):,} {state}")
    return ", ".join(found)

"""`fastclaim doctor`: the version, the core and the pool that would be used. Changes nothing."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from importlib.util import find_spec

from .. import core, layout, listing
from . import exits, os_error_text, version
from .output import Row, screen

_EXTENSION = "fastclaim._transition_c"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommand's arguments: none so far."""


def run(arguments: argparse.Namespace) -> int:
    """Run the subcommand; returns the exit status."""
    base_dir = layout.default_base_dir()
    status = exits.OK
    try:
        contents = _contents(base_dir)
    except OSError as error:
        contents, status = f"cannot be read: {os_error_text(error)}", exits.SYSTEM
    python = f"{sys.implementation.name} {sys.version.partition(' ')[0]}"
    given = os.environ.get(layout.BASE_DIR_VARIABLE)
    where = f"{layout.BASE_DIR_VARIABLE} is {'set' if given else 'not set: the default'}"
    screen().rows(
        [
            Row("version", version()),
            Row("python", python, sys.executable),
            Row("core", core, _why_this_core()),
            Row("pool", base_dir, where),
            Row("tasks", contents),
        ]
    )
    return status


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

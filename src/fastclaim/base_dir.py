"""`A2A_BASE_DIR`: readable and assignable in several modules, and the same directory in all.

The original has a global of that name, set from the environment when it is imported; its monitor
imports it by value. Pool, registry and messaging ask `layout.default_base_dir` instead. Here is
what keeps them together:

    fastclaim.a2a.A2A_BASE_DIR                     reads `layout.default_base_dir`, pins it
    orchestration.a2a_integration.A2A_BASE_DIR     the original's own variable; once `install` has
                                                   made us follow it, assigning it pins ours
    orchestration.*.A2A_BASE_DIR                   copies by value: rewritten at each assignment

From `install` on the environment is not asked any more, as the original does not ask it again.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any, Final

from . import layout

_NAME: Final = layout.BASE_DIR_VARIABLE

_sharing: list[ModuleType] = []
_followed: ModuleType | None = None
# As it was given, str or path; None while nobody has assigned one.
_assigned: Any = None
# What the original had when we began to follow it, and has again when an assignment is deleted.
_beneath: str | None = None


class _LookedUp(str):
    """A directory that nobody assigned. Assigning it, as monkeypatch's undo does, ends a pin."""


class _SharingModule(ModuleType):
    """A module of ours with an `A2A_BASE_DIR`."""

    @property
    def A2A_BASE_DIR(self) -> Any:
        return _LookedUp(layout.default_base_dir()) if _assigned is None else _assigned

    @A2A_BASE_DIR.setter
    def A2A_BASE_DIR(self, value: Any) -> None:
        _assign(None if isinstance(value, _LookedUp) else value)

    @A2A_BASE_DIR.deleter
    def A2A_BASE_DIR(self) -> None:
        _assign(None)


class _FollowedModule(ModuleType):
    """The original's module, which tells us when its `A2A_BASE_DIR` is assigned."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == _NAME:
            _assign(value)
        super().__setattr__(name, value)


def share(module_name: str) -> None:
    """Give a module of ours its `A2A_BASE_DIR`."""
    module = sys.modules[module_name]
    module.__class__ = _SharingModule
    if module not in _sharing:
        _sharing.append(module)


def follow(original: ModuleType) -> None:
    """Let all modules mean one directory from now on, whichever of them is assigned.

    That directory is the original's, which has been in use; one that was assigned to
    `fastclaim.a2a` before is what the original gets. Repeatable, also after a reload of the
    original, which reads the environment again.
    """
    global _followed, _beneath
    value = vars(original).get(_NAME, layout.default_base_dir())
    if _followed is original:
        if _as_path(value) != layout.default_base_dir():
            _assign(value)
        return
    _followed, _beneath = original, _as_path(value)
    if type(original) is ModuleType:
        original.__class__ = _FollowedModule
    _spread(_beneath, _beneath if _assigned is None else _as_path(_assigned))


def _assign(value: Any) -> None:
    global _assigned
    before = layout.default_base_dir()
    path = _beneath if value is None else _as_path(value)
    _assigned = value
    for module in _sharing:
        # Where mock.patch finds it, to put it back as it was.
        if value is None:
            vars(module).pop(_NAME, None)
        else:
            vars(module)[_NAME] = value
    _spread(before, path)


def _spread(before: str, path: str | None) -> None:
    """Pin `path`, also in the original's modules that have a copy of the directory before it."""
    layout.pin_base_dir(path)
    if _followed is None or path is None:
        return
    vars(_followed)[_NAME] = path
    for name, module in list(sys.modules.items()):
        if not name.startswith("orchestration."):
            continue
        copy = getattr(module, "__dict__", {}).get(_NAME)
        if isinstance(copy, str | os.PathLike) and _as_path(copy) == before:
            vars(module)[_NAME] = path


def _as_path(value: str | os.PathLike[str]) -> str:
    return os.fsdecode(value)

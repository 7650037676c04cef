"""Picks the core: `_transition_c` where it was built, else `_transition_py`.

``FASTCLAIM_NO_EXTENSIONS=1`` forces the Python core, whatever else is set;
``FASTCLAIM_REQUIRE_EXTENSIONS=1`` refuses to go without the compiled one. Both do the same, which
is written at the head of `_transition_py`.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

if TYPE_CHECKING or os.environ.get("FASTCLAIM_NO_EXTENSIONS") == "1":
    from . import _transition_py as core
else:
    try:
        from . import _transition_c as core
    except ImportError as error:
        if os.environ.get("FASTCLAIM_REQUIRE_EXTENSIONS") == "1":
            from importlib.util import find_spec

            is_built = find_spec(f"{__package__}._transition_c") is not None
            problem = f"cannot be loaded: {error}" if is_built else "was not built"
            raise ImportError(
                f"FASTCLAIM_REQUIRE_EXTENSIONS=1, but the compiled core {problem}"
            ) from error
        from . import _transition_py as core


def named(name: str) -> ModuleType:
    """The core of that name, or the one in use where there is none such (in another process)."""
    if name == core.NAME:
        return core
    from . import _transition_py

    return _transition_py if name == _transition_py.NAME else core


__all__ = ["core", "named"]

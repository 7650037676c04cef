"""Arguments without argparse, which takes longer to import than a claim takes.

Reads what a command declares to argparse, and only command lines on which nothing is unusual.
"""

from __future__ import annotations

from types import SimpleNamespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from typing import Any


class PlainParser:
    """Takes the same declarations as argparse's, of those kinds that `read` knows."""

    def __init__(self) -> None:
        self._options: dict[str, dict[str, Any]] = {}
        self._positionals: list[dict[str, Any]] = []

    def add_argument(self, *names: str, **settings: Any) -> None:
        """As of an ArgumentParser."""
        name = names[-1].lstrip("-").replace("-", "_")
        default = False if settings.get("action") == "store_true" else None
        settings = {"dest": name, "default": default, **settings}
        if names[0].startswith("-"):
            self._options.update(dict.fromkeys(names, settings))
        else:
            settings["required"] = settings.get("nargs") != "?"
            self._positionals.append(settings)

    def read(self, words: Sequence[str]) -> SimpleNamespace | None:
        """The arguments; None if argparse has to look at them, be it only to say what is wrong."""
        declared = [*self._options.values(), *self._positionals]
        values = {settings["dest"]: settings["default"] for settings in declared}
        given, rest, positionals = set(), iter(words), iter(self._positionals)
        for word in rest:
            is_option = word.startswith("-")
            settings = self._options.get(word) if is_option else next(positionals, None)
            if settings is None:
                return None
            name, action = settings["dest"], settings.get("action")
            given.add(name)
            if action == "store_true":
                values[name] = True
                continue
            try:
                value = _value(settings, next(rest, "-") if is_option else word)
            except Exception:
                return None
            values[name] = [*values[name], value] if action == "append" else value
        if any(each.get("required") and each["dest"] not in given for each in declared):
            return None
        return SimpleNamespace(**values)


def _value(settings: dict[str, Any], text: str) -> Any:
    if text.startswith("-"):
        raise ValueError("an option, or a negative number: argparse knows")
    value = settings.get("type", str)(text)
    if value not in settings.get("choices", (value,)):
        raise ValueError("none of the choices")
    return value


def parse(
    declare: Callable[[argparse.ArgumentParser], None], words: Sequence[str]
) -> argparse.Namespace | None:
    """What argparse would make of the words, or None; `declare` tells a parser of the arguments."""
    parser = PlainParser()
    declare(parser)  # type: ignore[arg-type]  # has what they use
    return parser.read(words)  # type: ignore[return-value]  # has the same attributes

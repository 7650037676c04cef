"""What the README and the design promise, each with the test that keeps it: that test is there."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
NAME = re.compile(r"`((?:[\w/]+\.py)?(?:::)?\w*|tests/[\w/]+)`")


def rows(document: str, header: str) -> list[list[str]]:
    """The cells of the table under a header."""
    text = (ROOT / document).read_text(encoding="utf-8")
    table = text.partition(header)[2].partition("\n\n")[0]
    return [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]


@functools.cache
def defined() -> frozenset[str]:
    """The names of all tests."""
    return frozenset(
        name
        for path in TESTS.rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    )


def missing(keeper: str) -> list[str]:
    """Names in a cell that are no test, and no file of tests."""
    gone = []
    for name in NAME.findall(keeper):
        path, _, test = name.rpartition("::") if "::" in name else ("", "", name)
        if name.endswith((".py", "/")):
            path, test = name, ""
        if path and not (TESTS / path.removeprefix("tests/")).exists():
            gone.append(name)
        if test.startswith("test_") and test not in defined():
            gone.append(name)
    return gone


@pytest.mark.parametrize(
    ("document", "header"),
    [("README.md", "| promise | kept by |"), ("docs/design.md", "| property | test |")],
)
def test_every_promise_names_a_test_that_is_there(document: str, header: str) -> None:
    table = rows(document, header)
    assert len(table) > 10
    for row in table:
        promise, keeper = row
        assert re.search(r"`[\w/.:]*test", keeper), promise
        assert not missing(keeper), promise


def test_the_house_has_every_module_in_it() -> None:
    package = ROOT / "src/fastclaim"
    house = (ROOT / "docs/design.md").read_text().partition("## The house")[2]
    server = (package / "postgres/__init__.py").read_text()
    for path in [*package.rglob("*.py"), *package.rglob("*.pyx"), *package.rglob("*.pxd")]:
        listed = server if path.parent.name == "postgres" else house
        if not path.name.startswith("__"):
            assert re.search(rf"(?<![\w/]){re.escape(path.name)}", listed), path.name

"""The completion scripts, run by the shells that they are for."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from fastclaim.cli.commands import COMMANDS

from .commands import fastclaim

CASES = [
    (["cl"], {"claim"}),
    (["--de"], {"--debug"}),
    (["--debug", "cl"], {"claim"}),
    (["--debug", "claim", "--ag"], {"--agent"}),
    (["claim", "--ag"], {"--agent"}),
    (["list", "--state", "comp"], {"completed"}),
    (["publish", "--if-exists", "re"], {"replace"}),
]


def script(shell: str) -> str:
    result = fastclaim("completion", shell)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def run(shell: str, code: str) -> str:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    clean = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    result = subprocess.run([shell, *clean, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


@pytest.mark.parametrize(("words", "expected"), CASES)
def test_bash_completes(words, expected):
    line = " ".join(f"'{word}'" for word in ["fastclaim", *words])
    code = f"COMP_WORDS=({line}) COMP_CWORD={len(words)}; _fastclaim; echo ${{COMPREPLY[*]}}"
    assert set(run("bash", f"{script('bash')}\n{code}").split()) == expected


def test_bash_completes_every_command():
    code = "COMP_WORDS=(fastclaim '') COMP_CWORD=1; _fastclaim; echo ${COMPREPLY[*]}"
    assert set(COMMANDS) <= set(run("bash", f"{script('bash')}\n{code}").split())


@pytest.mark.parametrize(("words", "expected"), CASES)
def test_fish_completes(words, expected):
    line = " ".join(["fastclaim", *words])
    found = run("fish", f"{script('fish')}\ncomplete -C '{line}'")
    assert expected <= {line.split("\t")[0] for line in found.splitlines()}


def test_fish_offers_commands_only_as_the_first_word():
    assert run("fish", f"{script('fish')}\ncomplete -C 'fastclaim release compl'") == ""


# Takes the place of what shows the matches, and prints what it is given.
ZSH = """
autoload -Uz compinit && compinit -u -D
_describe() { print -l -- ${(P)2} }
_arguments() { print -l -- "$@" }
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["cl"], "claim:"),
        (["claim", "--ag"], "*--agent["),
        (["list", ""], "(available "),
        (["--debug", "claim", "--ag"], "*--agent["),
        (["--de"], "--debug:"),
    ],
)
def test_zsh_completes(words, expected):
    line = " ".join(f"'{word}'" for word in ["fastclaim", *words])
    code = f"words=({line}) CURRENT={len(words) + 1}; _fastclaim"
    assert expected in run("zsh", f"{ZSH}\n{script('zsh')}\n{code}")

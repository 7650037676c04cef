"""`python -m fastclaim`: the same as the command `fastclaim`."""

from .cli import console

console()

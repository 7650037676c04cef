"""File systems of a test's own, each in an image: a copy of one is what a power cut leaves."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

WITHOUT_JOURNAL = "ext4-without-journal"
MEGABYTES = {"ext4": 64, WITHOUT_JOURNAL: 64, "xfs": 320}
MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F"],
    WITHOUT_JOURNAL: ["mkfs.ext4", "-q", "-F", "-O", "^has_journal"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
}
# The copy has the same UUID as the original, which xfs refuses by itself.
OPTIONS = {"ext4": "loop", WITHOUT_JOURNAL: "loop", "xfs": "loop,nouuid"}


@contextmanager
def mounted_image(kind: str, tmp_path: Path) -> Iterator[Path]:
    """A file with a file system in it, mounted at `mounted` beside it."""
    if shutil.which(MAKE[kind][0]) is None:
        pytest.skip(f"there is no {MAKE[kind][0]} here")
    image = tmp_path / f"image.{kind}"
    with open(image, "wb") as file:
        file.truncate(MEGABYTES[kind] << 20)
    subprocess.run([*MAKE[kind], image], check=True)
    mounted = tmp_path / "mounted"
    try:
        _mount(image, mounted)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no loop mounts of {kind} here: {error.stderr.decode().strip()}")
    try:
        yield image
    finally:
        _unmount(mounted)


def copy_of(image: Path) -> Path:
    """What is on disk of it now, and nothing of what the file system has still in memory."""
    copy = image.with_name(f"copy{image.suffix}")
    subprocess.run(["cp", "--sparse=always", image, copy], check=True)
    return copy


@contextmanager
def after_a_boot(copy: Path) -> Iterator[Path]:
    """Where a copy is mounted; without a journal to replay, it is repaired first."""
    if WITHOUT_JOURNAL in copy.name:
        done = subprocess.run(["e2fsck", "-f", "-y", copy], check=False, capture_output=True)
        assert done.returncode in (0, 1), done.stdout.decode()
    after = copy.with_name("after")
    _mount(copy, after)
    try:
        yield after
    finally:
        _unmount(after)


def _mount(image: Path, where: Path) -> None:
    where.mkdir(exist_ok=True)
    options = OPTIONS[image.suffix[1:]]
    subprocess.run(["mount", "-o", options, image, where], check=True, capture_output=True)


def _unmount(where: Path) -> None:
    subprocess.run(["umount", where], check=True)

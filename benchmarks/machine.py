"""Where the numbers come from: the machine, and the file systems to measure on."""

from __future__ import annotations

import os
import platform
import tempfile
from typing import NamedTuple

from fastclaim.file_system import lacks_journal, stays_in_order

MEMORY_DIRECTORY = "/dev/shm"
MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")


class Place(NamedTuple):
    """A directory to measure in, or why not."""

    name: str
    directory: str
    file_system: str
    unusable: str | None = None

    @property
    def is_memory(self) -> bool:
        """Whether what is written there never reaches a disk."""
        return self.file_system in MEMORY_FILE_SYSTEMS


def usual_places() -> list[Place]:
    """The tmpfs that Linux machines have, and the directory for temporary files."""
    memory = place_at(MEMORY_DIRECTORY)._replace(name="tmpfs")
    if memory.file_system != "tmpfs":
        reason = f"{MEMORY_DIRECTORY} is not a tmpfs but {memory.file_system}"
        memory = memory._replace(unusable=reason)
    disk = place_at(tempfile.gettempdir())._replace(name="disk")
    if disk.is_memory:
        reason = f"{disk.directory} is in memory: set TMPDIR to a directory on a disk"
        disk = disk._replace(unusable=reason)
    return [memory, disk]


def place_at(directory: str) -> Place:
    """The place `directory`, with its file system looked up."""
    if not os.path.isdir(directory):
        return Place(directory, directory, "nothing", f"{directory} is no directory")
    return Place(directory, directory, _mount(directory)[0])


def describe_place(place: Place) -> str:
    """File system, mount options, and whether ext4 keeps a journal."""
    file_system, _, options = _mount(place.directory)
    journal = ""
    if file_system == "ext4":
        device = os.stat(place.directory).st_dev
        if stays_in_order(device):
            journal = ", with a journal"
        elif lacks_journal(device):
            journal = ", without a journal"
    return f"{file_system} ({options}){journal}"


def describe_machine() -> str:
    """Processor, CPUs that we may use, kernel, Python."""
    usable = len(os.sched_getaffinity(0))
    return (
        f"{_processor()}, {usable} of {os.cpu_count()} CPUs, {platform.system()}"
        f" {platform.release()}, {platform.python_implementation()} {platform.python_version()}"
    )


def describe_load() -> str:
    """How busy the machine is: the load averages of 1, 5 and 15 minutes."""
    return " ".join(f"{load:.2f}" for load in os.getloadavg())


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                name, _, value = line.partition(":")
                if name.strip() == "model name":
                    return f"{value.strip()} ({platform.machine()})"
    except OSError:
        pass
    return platform.machine()


def _mount(directory: str) -> tuple[str, str, str]:
    """Type, device and options of the file system that `directory` is on."""
    path = os.path.realpath(directory)
    found, found_length = ("unknown", "", ""), -1
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                # See proc(5): what comes before " - " varies in number.
                before, _, after = line.partition(" - ")
                point = before.split()[4].replace("\\040", " ")
                is_above = path == point or path.startswith(point.rstrip("/") + "/")
                # Not `>`: a later line of the same mount point covers an earlier one.
                if is_above and len(point) >= found_length:
                    file_system, device, options = after.split()[:3]
                    found, found_length = (file_system, device, options), len(point)
    except OSError:
        pass
    return found

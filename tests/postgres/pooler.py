"""A pooler as pgbouncer is in transaction mode: lends each transaction a connection that is free.

As it was before its version 1.21, it knows nothing of prepared statements.
"""

from __future__ import annotations

import contextlib
import queue
import select
import socket
import struct
import threading
from typing import Final

_SSL_OR_GSS: Final = (80877103, 80877104)  # requests to encrypt the line
_AUTHENTICATED: Final = struct.pack("!cII", b"R", 8, 0)
_READY: Final = b"Z\0\0\0\5I"


class Pooler:
    """Listens on loopback until `close`.

    Parameters
    ----------
    port : int
        The server's, on loopback; it must trust whoever comes.
    size : int
        How many connections to the server it shares out.
    """

    def __init__(self, port: int, size: int) -> None:
        self._server_port, self._size = port, size
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._free: queue.Queue[socket.socket | None] = queue.Queue()
        for _ in range(size):
            self._free.put(None)  # not made yet
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more clients, and serve those no more that are there."""
        self._listener.close()
        for _ in range(self._size):
            server = self._free.get()
            if server is not None:
                server.close()
            self._free.put(server)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, EOFError):
            startup = _read_startup(client)
            made_up = struct.pack("!cIII", b"K", 12, 1, 1)
            client.sendall(_AUTHENTICATED + made_up + _READY)
            while (first := _read_message(client))[:1] != b"X":
                server = self._free.get() or self._connect(startup)
                try:
                    _carry_transaction(client, server, first)
                finally:
                    self._free.put(server)

    def _connect(self, startup: bytes) -> socket.socket:
        server = socket.create_connection(("127.0.0.1", self._server_port))
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server.sendall(startup)
        while _read_message(server)[:1] != b"Z":
            pass
        return server


def _carry_transaction(client: socket.socket, server: socket.socket, first: bytes) -> None:
    server.sendall(first)
    while True:
        ready, _, _ = select.select([client, server], [], [])
        if client in ready:
            server.sendall(_read_message(client))
        if server in ready:
            message = _read_message(server)
            client.sendall(message)
            if message == _READY:
                return


def _read_startup(client: socket.socket) -> bytes:
    while True:
        size = _read(client, 4)
        body = _read(client, struct.unpack("!I", size)[0] - 4)
        if struct.unpack("!I", body[:4])[0] not in _SSL_OR_GSS:
            return size + body
        client.sendall(b"N")


def _read_message(line: socket.socket) -> bytes:
    head = _read(line, 5)
    return head + _read(line, struct.unpack("!I", head[1:])[0] - 4)


def _read(line: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = line.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data

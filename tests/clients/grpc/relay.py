"""Stands between a client and the gateway, and counts what goes by."""

import contextlib
import socket
import threading


class Relay:
    """Listens on a port of its own and passes every byte on."""

    def __init__(self, host: str, port: int):
        self.target = (host, port)
        self.connections = 0
        self.sent = 0
        self.received = 0
        self.sockets: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.accept, daemon=True).start()

    @property
    def address(self) -> str:
        """Where clients connect."""
        return f"127.0.0.1:{self.listener.getsockname()[1]}"

    def accept(self) -> None:
        """Serves until it is closed."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(self.target)
                self.connections += 1
                self.sockets += [client, server]
                threading.Thread(target=self.pass_on, args=(client, server, "sent"), daemon=True).start()
                threading.Thread(target=self.pass_on, args=(server, client, "received"), daemon=True).start()

    def pass_on(self, source: socket.socket, target: socket.socket, counter: str) -> None:
        """Passes on what one side sends. Each counter has one thread for each connection."""
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                setattr(self, counter, getattr(self, counter) + len(data))
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # Closing alone does not wake a thread that accepts.
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for one in self.sockets:
            one.close()

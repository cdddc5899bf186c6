"""A server on an address of the loopback that a name of the operator's own stands for: it says hello, and hangs up."""

import socket
import threading
from pathlib import Path
from typing import Self

NAME = "greeter.test"
ADDRESS = "127.77.3.1"
HELLO = "hello from the host\n"

#: What a guest runs to be greeted: name and port follow.
ASK = (
    "python3",
    "-c",
    "from socket import create_connection as to; from sys import argv; print(end=to(argv[1:], 20).recv(99).decode())",
)


class Greeter:
    def __init__(self) -> None:
        self.greeted = 0
        self._listener = socket.create_server((ADDRESS, 0))
        self.port = int(self._listener.getsockname()[1])
        self.entry = f"{NAME}:{self.port}"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self.greeted += 1
                connection.sendall(HELLO.encode())

    @property
    def ask(self) -> tuple[str, ...]:
        """The command by which a guest is greeted."""
        return (*ASK, NAME, str(self.port))

    def configure(self, path: Path, *more: str) -> Path:
        """Write the configuration file by which the name is known."""
        lines = ["[egress]", f'allow_addresses = ["{ADDRESS}/32"]', f'hosts = {{"{NAME}" = ["{ADDRESS}"]}}', *more]
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o644)
        return path

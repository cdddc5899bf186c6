"""An SSH server: Debian's sshd, one process for a connection, without privileges; asyncssh where there is none."""

import asyncio
import os
import shutil
import socket
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.egress.world.child import Children
from tests.egress.world.journal import Journal
from tests.egress.world.listener import Accept, Link, Listener, Place

if TYPE_CHECKING:
    import asyncssh

SETTINGS = """\
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/authorized_keys
AuthenticationMethods publickey
StrictModes no
UsePAM no
PidFile none
PrintMotd no
SetEnv {mark}
LogLevel VERBOSE
"""


def sshd() -> str | None:
    """Return the whole path of sshd, which it insists on, if it is installed."""
    return shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin")


def make_key(path: Path) -> str:
    """Write a private key and return the public one as OpenSSH spells it."""
    key = Ed25519PrivateKey.generate()
    path.touch(0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


class Ssh:
    """An SSH server where `user` logs in with the key `identity`; `accepts` counts connections."""

    def __init__(self, children: Children, name: str, bound: socket.socket) -> None:
        address, port = bound.getsockname()[:2]
        self.place = Place(name, address, port)
        self.accepts: Journal[Accept] = Journal()
        self.user = children.account.name
        self.program = sshd()
        self._children = children
        self._directory = children.directory / f"ssh-{name}"
        self._directory.mkdir(mode=0o755)
        self.identity = self._directory / "client_key"
        self.known_hosts = self._directory / "known_hosts"
        self._write_keys()
        self._listener = Listener(bound, self._serve_sshd if self.program else self._serve_asyncssh, self.accepts)

    def _write_keys(self) -> None:
        public = make_key(self._directory / "host_key")
        (self._directory / "authorized_keys").write_text(make_key(self.identity) + "\n")
        host = self.place.name if self.place.port == 22 else f"[{self.place.name}]:{self.place.port}"
        self.known_hosts.write_text(f"{host} {public}\n")
        settings = SETTINGS.format(directory=self._directory, mark=self._children.mark)
        (self._directory / "sshd_config").write_text(settings)
        if os.geteuid() == 0:
            self._children.account.own(self._directory / "host_key")

    @property
    def places(self) -> list[Place]:
        return [self.place]

    def options(self, identity: str | None = None, known_hosts: str | None = None) -> list[str]:
        """Return what ssh needs to be told; other paths where the client sees copies of the files."""
        words = ["BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=yes", "ConnectTimeout=20"]
        words.append(f"UserKnownHostsFile={known_hosts or self.known_hosts}")
        options = [part for word in words for part in ("-o", word)]
        return ["-F", "none", "-i", identity or str(self.identity), "-p", str(self.place.port), *options]

    def command(self, *words: str) -> list[str]:
        """Return the argv that runs a command there."""
        return ["ssh", *self.options(), f"{self.user}@{self.place.name}", *words]

    async def start(self) -> None:
        await self._listener.start()

    async def stop(self) -> None:
        await self._listener.stop()

    async def _serve_sshd(self, connection: socket.socket) -> None:
        assert self.program
        argv = [self.program, "-i", "-e", "-f", str(self._directory / "sshd_config")]
        connection.setblocking(True)
        child = self._children.start(argv, stdin=connection, stdout=connection)
        connection.close()  # the child's alone: its end is the connection's
        try:
            await child.exited()
        finally:
            await child.end(0)

    async def _serve_asyncssh(self, connection: socket.socket) -> None:
        import asyncssh

        try:
            served = await asyncssh.run_server(
                socket.socket(fileno=connection.detach()),
                server_host_keys=[str(self._directory / "host_key")],
                authorized_client_keys=str(self._directory / "authorized_keys"),
                process_factory=self._run,
                encoding=None,
            )
        except asyncssh.Error as fault:
            raise EOFError(str(fault)) from None
        async with served:
            await served.wait_closed()

    async def _run(self, process: "asyncssh.SSHServerProcess[bytes]") -> None:
        shell = ["/bin/sh", "-c", process.command] if process.command else ["/bin/sh"]
        with ExitStack() as ends:
            (ours, theirs), (our_errors, their_errors) = (
                [ends.enter_context(end) for end in socket.socketpair()] for _ in range(2)
            )
            child = self._children.start(shell, stdin=theirs, stdout=theirs, stderr=their_errors)
            theirs.close()
            their_errors.close()
            status = 255
            try:
                async with Link(ours) as link, Link(our_errors) as errors:
                    await converse(process, link, errors)
                    status = await child.exited()
            finally:
                await child.end(0)
                process.exit(status if status >= 0 else 255)


async def converse(process: "asyncssh.SSHServerProcess[bytes]", link: Link, errors: Link) -> None:
    """Carry a program's three streams until it has ended the two it writes."""
    told = asyncio.create_task(carry(process.stdin, link.writer))
    try:
        await asyncio.gather(carry(link.reader, process.stdout), carry(errors.reader, process.stderr))
    finally:
        told.cancel()
        await asyncio.gather(told, return_exceptions=True)


async def carry(source: Any, sink: Any) -> None:
    with suppress(OSError):
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()
        sink.write_eof()

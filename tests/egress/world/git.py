"""A Git repository, over smart HTTP by `git http-backend` and over SSH."""

import asyncio
import os
import socket
import subprocess
from contextlib import suppress
from urllib.parse import urlsplit

from tests.egress.world.child import Children
from tests.egress.world.exchange import Request, Response
from tests.egress.world.listener import Link

REPOSITORY = "sample.git"
CONTENT = "what a clone must hold\n"
COMMIT = f"""\
commit refs/heads/main
committer A Test <test@world.test> 1700000000 +0000
data 6
first

M 100644 inline README
data {len(CONTENT)}
{CONTENT}
"""
#: Nobody's configuration but ours
ALONE = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}


class Repositories:
    """One bare repository with one commit, which everybody may read and write; as a site it is git http-backend."""

    def __init__(self, children: Children) -> None:
        self._children = children
        self.root = children.directory / "git"
        self.path = self.root / REPOSITORY
        self.root.mkdir(mode=0o755)
        if os.geteuid() == 0:
            children.account.own(self.root)
        self._git("init", "--quiet", "--bare", "--initial-branch=main", str(self.path))
        self._git("-C", str(self.path), "config", "http.receivepack", "true")
        self._git("-C", str(self.path), "fast-import", "--quiet", told=COMMIT)

    def _git(self, *words: str, told: str = "") -> str:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.root), **ALONE}
        done: subprocess.CompletedProcess[str] = subprocess.run(
            ["git", *words],
            input=told,
            capture_output=True,
            check=True,
            cwd=self.root,
            env=environment,
            text=True,
            timeout=30,
            **self._children.account.identity,
        )
        return done.stdout.strip()

    def head(self) -> str:
        """Return the commit that the branch stands at now."""
        return self._git("-C", str(self.path), "rev-parse", "refs/heads/main")

    def _variables(self, request: Request) -> dict[str, str]:
        """Return what CGI (RFC 3875) tells a program about a request."""
        target = urlsplit(request.target)
        given = {
            "CONTENT_LENGTH": request.header("content-length"),
            "CONTENT_TYPE": request.header("content-type"),
            "HTTP_CONTENT_ENCODING": request.header("content-encoding"),
            "HTTP_GIT_PROTOCOL": request.header("git-protocol"),
        }
        always = {
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": target.path,
            "QUERY_STRING": target.query,
            "REQUEST_METHOD": request.method,
            "SERVER_PROTOCOL": request.version,
        }
        return always | ALONE | {name: value for name, value in given.items() if value}

    async def __call__(self, request: Request) -> Response:
        ours, theirs = socket.socketpair()
        with theirs:
            child = self._children.start(["git", "http-backend"], self._variables(request), stdin=theirs, stdout=theirs)
        try:
            with ours:
                output = await converse(request, ours)
        finally:
            await child.end(10)
        head, _, content = output.partition(b"\r\n\r\n")
        fields = [line.partition(": ") for line in head.decode().split("\r\n")]
        headers = {name.lower(): value for name, _, value in fields}
        status = int(headers.pop("status", "200").split()[0])
        return Response(status, content, tuple(headers.items()))


async def converse(request: Request, connection: socket.socket) -> bytes:
    """Give a program the body of a request while it answers, and return all of its answer."""
    async with Link(connection) as link:
        told = asyncio.create_task(tell(request, link))
        try:
            return await link.reader.read()
        finally:
            told.cancel()
            await asyncio.gather(told, return_exceptions=True)


async def tell(request: Request, link: Link) -> None:
    with suppress(OSError):  # it may have read enough
        async for piece in request.body:
            link.writer.write(piece)
            await link.writer.drain()
        link.writer.write_eof()

"""The same benchmarks as a plain user, started by root: another uid, an interpreter it can run, nothing inherited."""

import importlib.metadata
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

import bench
from bench import pss
from bench.document import Document, decode
from bench.ground import left_behind, remove
from bench.local import has_backend

TREE = Path(bench.__file__).parent.parent

_SECONDS = 4 * 3600.0
_SETUP_SECONDS = 1800.0
_PACKAGES = "packages"


class UserError(Exception):
    """The plain user cannot be used; the message says what to do."""


@dataclass(frozen=True)
class Account:
    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def account(name: str) -> Account:
    """Raises:
    UserError: no such user, it is root itself, or we are not root.
    """
    if os.geteuid() != 0:
        raise UserError("--user needs root: only root can become somebody else")
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise UserError(f"no user is named {name}: make one with `useradd {name}`") from None
    if entry.pw_uid == 0:
        raise UserError(f"{name} is root: leave --user out")
    return Account(name, entry.pw_uid, entry.pw_gid, tuple(os.getgrouplist(name, entry.pw_gid)))


@dataclass(frozen=True)
class Place:
    """An interpreter that the user can run, and the tree to run it in."""

    python: str
    tree: Path


def environment(who: Account, home: Path, tree: Path) -> dict[str, str]:
    """A login's bare minimum; what is beside the interpreter's own packages lies in the home directory."""
    return {
        "HOME": str(home),
        "USER": who.name,
        "LOGNAME": who.name,
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        "TERM": os.environ.get("TERM", "dumb"),
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
        "PYTHONPATH": os.pathsep.join([str(tree), str(home / _PACKAGES)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "ALCOVE_HOME": str(home / "alcove"),
    }


def choose(who: Account, home: Path, named: str | None) -> Place:
    """The named interpreter, else our own, else the one that the tests make for such a user.

    Raises:
        UserError: none of them can import the benchmarks, and Alcove if we can; the message says why.
    """
    place = Place(named or sys.executable, TREE)
    complaint = _complaint(place, who, home)
    if complaint and named is None:
        place = _made_for(who)
        complaint = _complaint(place, who, home)
    if complaint:
        raise UserError(
            f"{who.name} cannot run this with {place.python}: {complaint}\n"
            "make an environment that it can read, install alcove into it, and name its interpreter with --python"
        )
    return place


def _complaint(place: Place, who: Account, home: Path) -> str:
    wanted = "bench.cli, alcove.local" if has_backend() else "bench.cli"
    try:
        done = subprocess.run(
            [place.python, "-c", f"import {wanted}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            **_identity(who, place, home),
        )
    except OSError as error:
        return str(error)
    return (done.stderr.strip().splitlines() or ["no message"])[-1] if done.returncode else ""


def _made_for(who: Account) -> Place:
    script = TREE / "scripts" / "user-python.sh"
    done = subprocess.run([script, who.name], stdout=subprocess.PIPE, text=True, check=False, timeout=_SETUP_SECONDS)
    lines = done.stdout.splitlines()
    if done.returncode != 0 or len(lines) != 2:
        raise UserError(f"{script.name} {who.name} ended with {done.returncode} and made no interpreter for it")
    return Place(python=lines[1], tree=Path(lines[0]))


def carry(distribution: str, target: Path) -> None:
    """Copy an installed distribution's files for somebody who cannot read ours; nothing where it is not installed."""
    try:
        found = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return
    for file in found.files or []:
        source, copy = Path(str(file.locate())), target / file
        if ".." not in file.parts and source.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, copy)


def _identity(who: Account, place: Place, home: Path) -> dict[str, Any]:
    return {
        "user": who.uid,
        "group": who.gid,
        "extra_groups": list(who.groups),
        "env": environment(who, home, place.tree),
        "cwd": str(place.tree),
    }


def run_as(name: str, arguments: Sequence[str], parent: Path, python: str | None) -> Document:
    """Run ``python -m bench`` with the arguments as that user; returns the document it made.

    Raises:
        UserError: no such user, no interpreter that it can run, or the run ended without a document.
    """
    who = account(name)
    home = Path(tempfile.mkdtemp(prefix="alcove-bench-", dir=parent))
    try:
        os.chown(home, who.uid, who.gid)
        carry("sandlock", home / _PACKAGES)
        place = choose(who, home, python)
        argv = [place.python, "-m", "bench", *arguments, "--dir", str(home)]
        code, data = _child(argv, _identity(who, place, home))
    finally:
        remove(home)
    if not data:
        raise UserError(f"the run as {name} ended with {code} and no document")
    document = decode(data)
    # The user may not look into the session's processes; we may.
    found = [thing for thing in left_behind(home) if thing not in document.left_behind]
    return msgspec.structs.replace(document, left_behind=[*document.left_behind, *found])


def _child(argv: Sequence[str], identity: Mapping[str, Any]) -> tuple[int, bytes]:
    ours, theirs = socket.socketpair()
    with ours, tempfile.TemporaryFile() as result:
        with theirs:
            channels = (theirs.fileno(), result.fileno())
            told = ["--pss-fd", str(channels[0]), "--result-fd", str(channels[1])]
            child = subprocess.Popen([*argv, *told], pass_fds=channels, **identity)
        pss.serve(ours)
        code = _await(child)
        result.seek(0)
        return code, result.read()


def _await(child: "subprocess.Popen[bytes]") -> int:
    try:
        return child.wait(timeout=_SECONDS)
    except BaseException:
        child.terminate()  # it takes its sessions and files with it
        child.wait(timeout=60)
        raise

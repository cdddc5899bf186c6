"""runc and crun over a minimal bundle whose root shows the host's directories read-only."""

import itertools
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.contender import COMMAND_SECONDS, Finished, Run, WrongResultError, run
from bench.hostview import HostView, host_view
from bench.runtime import Prefix, await_echo, first_line

_NAMESPACES = ("pid", "network", "ipc", "uts", "mount")
_FILE_SYSTEMS: tuple[tuple[str, str, Sequence[str]], ...] = (
    ("/proc", "proc", ()),
    ("/dev", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    ("/dev/pts", "devpts", ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620")),
    ("/dev/shm", "tmpfs", ("nosuid", "noexec", "nodev", "mode=1777")),
    ("/tmp", "tmpfs", ("nosuid", "nodev", "mode=1777")),
)


def bundle_config(command: Sequence[str], view: HostView, workspace: Path | None, uid: int, gid: int) -> dict[str, Any]:
    """An OCI configuration; a caller other than root gets a user namespace with the one id it may map."""
    binds = [{"destination": str(p), "type": "none", "source": str(p), "options": ["rbind", "ro"]} for p in view.binds]
    made = [{"destination": d, "type": t, "source": t, "options": list(options)} for d, t, options in _FILE_SYSTEMS]
    if workspace is not None:
        binds.append({"destination": "/workspace", "type": "none", "source": str(workspace), "options": ["rbind"]})
    linux: dict[str, Any] = {"namespaces": [{"type": kind} for kind in _NAMESPACES]}
    if uid != 0:
        linux["namespaces"].append({"type": "user"})
        linux["uidMappings"] = [{"containerID": 0, "hostID": uid, "size": 1}]
        linux["gidMappings"] = [{"containerID": 0, "hostID": gid, "size": 1}]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": list(command),
            "env": ["PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/workspace", "LANG=C.UTF-8"],
            "cwd": "/workspace" if workspace is not None else "/",
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "box",
        "mounts": binds + made,
        "linux": linux,
    }


def container_prefix() -> str:
    """What the names of this program's containers, and so their cgroups, begin with."""
    return f"bench-{os.getpid()}-"


class Oci(Prefix):
    """A bundle for each command, written before anything is timed; containers are named by a counter."""

    joins = True
    program: str

    def __init__(self, state: Path) -> None:
        self._state = state / self.program
        self._numbers = itertools.count()
        self._bundles: dict[tuple[Path | None, tuple[str, ...]], Path] = {}

    def version(self) -> str | None:
        line = first_line([self.program, "--version"])
        return line.removeprefix(f"{self.program} version ") if line else None

    def prefix(self, workspace: Path | None) -> list[str]:  # noqa: ARG002  the workspace stands in the bundle
        return [self.program, "--root", str(self._state / "containers")]

    def once(self, workspace: Path | None = None) -> Run:
        def go(command: Sequence[str]) -> Finished:
            bundle = self._bundle(command, workspace)
            return run([*self.prefix(workspace), "run", "--bundle", str(bundle), self._name()])

        return go

    @contextmanager
    def live(self, workspace: Path | None = None) -> Iterator[Run]:
        with self._container(workspace) as (name, _):
            before = [*self.prefix(workspace), "exec", name]
            yield lambda command: run([*before, *command])

    @contextmanager
    def hold(self, workspace: Path | None) -> Iterator[int]:
        with self._container(workspace) as (_, pid):
            yield pid

    @contextmanager
    def _container(self, workspace: Path | None) -> Iterator[tuple[str, int]]:
        # Detached, as daemons use these runtimes: nothing but the payload stays.
        name = self._name()
        bundle = self._bundle(["/bin/cat"], workspace)
        pid_file = self._state / f"{name}.pid"
        detached = ["run", "--detach", "--bundle", str(bundle), "--pid-file", str(pid_file), name]
        start = subprocess.Popen(
            [*self.prefix(workspace), *detached],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        with start:
            try:
                if start.wait(timeout=COMMAND_SECONDS) != 0:
                    raise WrongResultError(f"{self.program} run --detach ended with {start.returncode}")
                await_echo(start)
                yield name, int(pid_file.read_text())
            finally:
                start.wait(timeout=COMMAND_SECONDS)  # what is half made when we are interrupted cannot be deleted whole
                self._delete(name)

    def close(self) -> None:
        """Delete what an interrupted run of ours left."""
        containers = self._state / "containers"
        for path in containers.iterdir() if containers.is_dir() else ():
            self._delete(path.name)

    def _delete(self, name: str) -> None:
        run([*self.prefix(None), "delete", "--force", name])

    def _name(self) -> str:
        return f"{container_prefix()}{next(self._numbers)}"

    def _bundle(self, command: Sequence[str], workspace: Path | None) -> Path:
        key = (workspace, tuple(command))
        if key not in self._bundles:
            view = host_view()
            path = self._state / f"bundle-{next(self._numbers)}"
            _write_bundle(path, bundle_config(command, view, workspace, os.geteuid(), os.getegid()), view)
            self._bundles[key] = path
        return self._bundles[key]


def _write_bundle(path: Path, config: Mapping[str, Any], view: HostView) -> None:
    root = path / "rootfs"
    root.mkdir(parents=True)
    for link, target in view.links:
        (root / link.relative_to("/")).symlink_to(target)
    (path / "config.json").write_text(json.dumps(config))


class Runc(Oci):
    name = "runc"
    program = "runc"
    live_name = "runc exec"
    how = "a bundle with host directories read-only; live: runc exec in a detached container"


class Crun(Oci):
    name = "crun"
    program = "crun"
    live_name = "crun exec"
    how = "the same bundle; live: crun exec in a detached container"

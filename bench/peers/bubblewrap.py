"""bubblewrap with every namespace, the host's directories read-only, a /proc, a /dev and a /tmp of its own."""

from pathlib import Path

from bench.hostview import host_view
from bench.runtime import Prefix, first_line


class Bubblewrap(Prefix):
    name = "bubblewrap"
    how = "all namespaces, host directories read-only, proc, dev, tmpfs /tmp, --die-with-parent --new-session"

    def version(self) -> str | None:
        line = first_line(["bwrap", "--version"])
        return line.removeprefix("bubblewrap ") if line else None

    def prefix(self, workspace: Path | None) -> list[str]:
        argv = ["bwrap", "--unshare-user", "--unshare-all", "--die-with-parent", "--new-session"]
        view = host_view()
        for path in view.binds:
            argv += ["--ro-bind", str(path), str(path)]
        for path, target in view.links:
            argv += ["--symlink", target, str(path)]
        argv += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
        if workspace is not None:
            argv += ["--bind", str(workspace), "/workspace", "--chdir", "/workspace"]
        return argv

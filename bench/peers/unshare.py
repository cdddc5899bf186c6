"""Namespaces alone: no other root, no filter. A floor for what namespaces cost, not a sandbox."""

from pathlib import Path

from bench.processes import descendants
from bench.runtime import Prefix, first_line


class Unshare(Prefix):
    name = "unshare"
    live_name = "unshare (nsenter)"
    how = "unshare -Urmpin --fork; live: nsenter of the same namespaces"
    joins = True

    def version(self) -> str | None:
        line = first_line(["unshare", "--version"])
        return line.removeprefix("unshare from ") if line else None

    def prefix(self, workspace: Path | None) -> list[str]:  # noqa: ARG002  it shows the host's files as they are
        return ["unshare", "-Urmpin", "--fork"]

    def join(self, held: int, workspace: Path | None) -> list[str]:
        inside = min(descendants([held]) - {held})
        namespaces = ["--user", "--mount", "--pid", "--ipc", "--net"]
        # Entering a mount namespace moves the caller to its root.
        place = f"--wdns={workspace or '/'}"
        return ["nsenter", "--target", str(inside), *namespaces, "--preserve-credentials", place, "--"]

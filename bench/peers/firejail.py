"""firejail without a profile: no network, no capabilities, everything but the workspace read-only."""

from pathlib import Path

from bench.runtime import Prefix, first_line


class Firejail(Prefix):
    name = "firejail"
    live_name = "firejail (--join)"
    how = "--noprofile --net=none, no capabilities, no new privileges, seccomp, private dev and tmp, read-only /"
    joins = True

    def version(self) -> str | None:
        line = first_line(["firejail", "--version"])
        return line.removeprefix("firejail version ") if line else None

    def prefix(self, workspace: Path | None) -> list[str]:
        argv = ["firejail", "--quiet", "--noprofile", "--net=none", "--caps.drop=all", "--nonewprivs", "--seccomp"]
        argv += ["--ipc-namespace", "--private-dev", "--private-tmp", "--read-only=/"]
        # keep-var-tmp: without it a workspace below /var/tmp lies under a tmpfs
        argv.append("--keep-var-tmp")
        if workspace is not None:
            argv.append(f"--read-write={workspace}")
        return [*argv, "--"]

    def join(self, held: int, workspace: Path | None) -> list[str]:  # noqa: ARG002  it keeps our directory
        return ["firejail", "--quiet", f"--join={held}"]

"""Whether running processes could be kept and brought back (CRIU): they cannot, and this says why on each host."""

import shutil
import subprocess

_CHECK_WITHIN_S = 10
_NOT_OURS = (
    "a session's processes are held by a Landlock domain, which CRIU neither keeps nor restores: they would come back "
    "with a fence less"
)


def why_not() -> str:
    """The reason, as this host gives it."""
    criu = shutil.which("criu")
    if criu is None:
        return f"CRIU is not installed; with it, {_NOT_OURS}"
    try:
        checked = subprocess.run(
            [criu, "check"], capture_output=True, timeout=_CHECK_WITHIN_S, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"{criu} does not run: {error}"
    if checked.returncode:
        said = checked.stderr.decode(errors="replace").strip().splitlines()
        return f"`criu check` fails on this host: {said[-1] if said else f'exit code {checked.returncode}'}"
    return f"CRIU is there, but {_NOT_OURS}"

"""Where the native launcher is: beside the interpreter's scripts, wherever the package was installed to."""

import os
import sys
import sysconfig
from pathlib import Path

from alcove.contract import LifecycleError

NAME = "alcove-warden"


def find() -> Path:
    """Return the path of the installed launcher.

    Raises:
        LifecycleError: this installation has none.
    """
    looked = []
    for directory in _directories():
        path = Path(directory) / NAME
        if os.access(path, os.X_OK):
            return path
        looked.append(str(directory))
    raise LifecycleError(
        f"the native launcher {NAME} is not installed (looked in {', '.join(looked)}); "
        "install Alcove from a wheel, or build it: pip install ."
    )


def _directories() -> list[str]:
    """The environment's scripts, the user's, and those beside the package (pip install --target, --prefix)."""
    package = Path(__file__).resolve().parents[1]
    found = [
        sysconfig.get_path("scripts"),
        str(Path(sys.executable).parent),
        str(package.parent / "bin"),
        str(package.parents[3] / "bin") if len(package.parents) > 3 else "",
        sysconfig.get_path("scripts", sysconfig.get_preferred_scheme("user")),
    ]
    return list(dict.fromkeys(directory for directory in found if directory))

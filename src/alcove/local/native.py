"""Where the native launcher is: beside the interpreter's scripts, wherever the package was installed to."""

import os
import sys
from collections.abc import Iterator

from alcove.contract import LifecycleError

NAME = "alcove-warden"


def find() -> str:
    """Return the path of the installed launcher.

    Raises:
        LifecycleError: this installation has none.
    """
    looked = []
    for directory in _directories():
        path = f"{directory}/{NAME}"
        if os.access(path, os.X_OK):
            return path
        looked.append(directory)
    raise LifecycleError(
        f"the native launcher {NAME} is not installed (looked in {', '.join(dict.fromkeys(looked))}); "
        "install Alcove from a wheel, or build it: pip install ."
    )


def _directories() -> Iterator[str]:
    """The interpreter's, beside the package (pip install --target, --prefix), the environment's and the user's."""
    yield os.path.dirname(sys.executable)
    package = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    yield os.path.join(os.path.dirname(package), "bin")
    yield os.path.normpath(os.path.join(package, "../../../../bin"))
    import sysconfig  # late: most installations are found without

    yield sysconfig.get_path("scripts")
    yield sysconfig.get_path("scripts", sysconfig.get_preferred_scheme("user"))

"""The command line `alcove`.

One table of commands serves parsing, help and completion; what a command does is imported when it is the one that was
asked for, so that `alcove run` costs little more than its session.
"""

import os
import signal
import sys
from typing import NoReturn

from alcove.cli.failures import FAILED, told, warn
from alcove.cli.grammar import Usage
from alcove.cli.table import COMMANDS
from alcove.contract import SandboxError

#: As of a program that SIGPIPE killed, which Python ignores: whoever read our output has gone.
_UNREAD = 128 + signal.SIGPIPE


def main() -> NoReturn:
    """Run the command line of this process and exit with its code."""
    _open_the_standard_streams()
    _leave_out_ssl()
    code = run(sys.argv[1:])
    try:
        print(end="", flush=True)
    except BrokenPipeError:
        code = _UNREAD
    except OSError as error:
        if code != FAILED:
            warn(error.strerror or str(error))
        code = FAILED
    # the interpreter's own end would take a sixth of the whole time, and has nothing to do for us
    os._exit(code)


def run(words: list[str]) -> int:
    """Run one command line and return its exit code: 125 where Alcove failed, the command's own where one was run."""
    try:
        given = COMMANDS.parse(words)
        return given.handler()(given)
    except Usage as error:
        warn(str(error))
    except SandboxError as error:
        warn(told(error))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return _UNREAD
    except OSError as error:
        warn(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error))
    except Exception:  # noqa: BLE001 - the last line: an exit code of ours, never one that could be the command's
        import traceback

        traceback.print_exc()
        warn("this is a bug in Alcove; please report it with the lines above")
    return FAILED


def _open_the_standard_streams() -> None:
    """Make sure that 0 to 2 are taken: else the store could be one of them, and the guest's output land in it."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _leave_out_ssl() -> None:
    """Spare the import of OpenSSL, more than half of asyncio's: nothing in this process speaks TLS."""
    if "ssl" not in sys.modules:
        sys.modules["ssl"] = None  # type: ignore[assignment]
        import asyncio  # noqa: F401

        del sys.modules["ssl"]

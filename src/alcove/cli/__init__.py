"""The command line `alcove`.

One table of commands serves parsing, help and completion; what a command does is imported when it is the one that was
asked for, so that `alcove run` costs little more than its session.
"""

import sys
from typing import NoReturn

from alcove.cli.failures import FAILED, told, warn
from alcove.cli.grammar import Usage
from alcove.cli.table import COMMANDS
from alcove.contract import SandboxError


def main() -> NoReturn:
    """Run the command line of this process and exit with its code."""
    sys.exit(run(sys.argv[1:]))


def run(words: list[str]) -> int:
    """Run one command line and return its exit code: 125 where Alcove failed, the command's own where one was run."""
    try:
        given = COMMANDS.parse(words)
        return given.handler()(given)
    except Usage as error:
        warn(str(error))
    except SandboxError as error:
        warn(told(error))
    except BrokenPipeError:
        # whoever read our standard output has gone: say nothing more to it, not even at exit
        sys.stdout = None  # type: ignore[assignment]
    except OSError as error:
        warn(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except Exception:  # noqa: BLE001 - the last line: an exit code of ours, never one that could be the command's
        import traceback

        traceback.print_exc()
        warn("this is a bug in Alcove; please report it with the lines above")
    return FAILED

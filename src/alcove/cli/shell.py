"""`alcove shell`: a terminal in a session."""

import asyncio
import os
import signal
from datetime import UTC, datetime

from alcove.cli.failures import FAILED, warn
from alcove.cli.grammar import Given, Usage
from alcove.cli.local import request, with_backend
from alcove.cli.run import exit_code, explain, explain_denials, throwaway
from alcove.local.exec.terminal import Resizing, TerminalSandbox, raw_mode

_PASSED_ON = ("TERM", "COLORTERM", "NO_COLOR")
# bash where there is one, else whatever sh is
_DEFAULT = ["sh", "-c", 'exec "$SHELL"']


def shell(given: Given) -> int:
    """Open a shell, or another command, on a terminal."""
    if not (os.isatty(0) and os.isatty(1)):
        warn("a shell needs a terminal; for scripts: alcove exec ID -- sh -c '…'")
        return FAILED
    if given.words and (unused := _for_a_new_session(given)):
        raise Usage(f"{unused} is for a session of the shell's own; `{given.words[0]}` is there already")

    async def work(backend: TerminalSandbox) -> int:
        if given.words:
            return await _on_terminal(backend, given.words[0], given, stays=True)
        async with throwaway(backend, given) as session:
            return await _on_terminal(backend, session.id, given, stays=given["keep"])

    return with_backend(given, work)


def _for_a_new_session(given: Given) -> str | None:
    """Return an option that was given and describes a session."""
    of_a_command = {"timeout", "env", "cwd", "user", "help"}
    return next(
        (option.name for option in given.command.options if option.key not in of_a_command and given[option.key]), None
    )


async def _on_terminal(backend: TerminalSandbox, session_id: str, given: Given, *, stays: bool) -> int:
    since = datetime.now(UTC)
    variables = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    wanted = request(given, given.argv or _DEFAULT, variables)
    loop, resizing = asyncio.get_running_loop(), Resizing()
    with raw_mode(0) as again:

        def continued() -> None:  # somebody stopped us, and the shell took the terminal back meanwhile
            again()
            resizing.tell()

        loop.add_signal_handler(signal.SIGWINCH, resizing.tell)
        loop.add_signal_handler(signal.SIGCONT, continued)
        try:
            result = await backend.terminal(session_id, wanted, (0, 1), resizing)
        finally:
            loop.remove_signal_handler(signal.SIGWINCH)
            loop.remove_signal_handler(signal.SIGCONT)
    explain(result)
    explain_denials(backend, session_id, since, stays=stays)
    return exit_code(result)

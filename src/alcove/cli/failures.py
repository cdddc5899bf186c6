"""What people read when Alcove failed: on stderr, with the exit code that says so."""

import os
from collections.abc import Collection, Iterable
from contextlib import suppress

from alcove.contract import InvalidRequest, SandboxError, SessionNotFound
from alcove.contract.errors import DetailedError

#: Exit codes of the command line's own, as env(1), timeout(1) and docker(1) have them.
FAILED = 125
TIMED_OUT = 124

_RED, _PLAIN = "\033[31m", "\033[0m"
_MOST_SHOWN = 5


def warn(message: str) -> None:
    """Write a message to stderr, under the program's name."""
    name = f"{_RED}alcove:{_PLAIN}" if colours(2) else "alcove:"
    text = f"{name} {message}\n"
    with suppress(OSError):  # nobody hears us; the exit code tells it too
        os.write(2, text.encode("utf-8", "backslashreplace"))


def colours(fd: int) -> bool:
    """Tell whether to write colours to a descriptor: it is a terminal, and nobody said otherwise (no-color.org)."""
    return os.isatty(fd) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def told(error: SandboxError) -> str:
    """Return an error for a person: a refused request without the words that frame it on the wire."""
    return error.detail if isinstance(error, DetailedError) else str(error)


def not_found(error: SessionNotFound, known: Iterable[str], snapshots: Collection[str] = ()) -> InvalidRequest:
    """Return the error for an id that names no session, with those that the caller may have meant."""
    ids = list(known)
    if error.session_id in snapshots:
        advice = f"it is a snapshot: alcove snapshots show {error.session_id}"
    elif close := _close(error.session_id, ids):
        advice = f"did you mean {close}?"
    elif ids:
        advice = f"there are: {_shown(ids)} (`alcove ls`)"
    else:
        advice = "there is no session yet; make one: alcove create"
    return InvalidRequest(f"{error}\n  {advice}")


def no_snapshot(reference: str, known: Collection[str], sessions: Collection[str]) -> InvalidRequest:
    """Return the error for what names no snapshot, with those that the caller may have meant."""
    if reference in sessions:
        advice = f"it is a session: take a snapshot of it (alcove snapshot {reference}), or fork it"
    elif close := _close(reference, known):
        advice = f"did you mean {close}?"
    elif known:
        advice = f"there are: {_shown(known)} (`alcove snapshots`)"
    else:
        advice = "there is none yet; take one: alcove snapshot ID"
    return InvalidRequest(f"there is no snapshot `{reference}`\n  {advice}")


def _close(wanted: str, known: Collection[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(wanted, known, n=_MOST_SHOWN, cutoff=0.5)
    close += [name for name in known if name.startswith(wanted) and name not in close]
    return " or ".join(f"`{name}`" for name in close[:_MOST_SHOWN])


def _shown(known: Collection[str]) -> str:
    return f"{', '.join(list(known)[:_MOST_SHOWN])}{' …' if len(known) > _MOST_SHOWN else ''}"

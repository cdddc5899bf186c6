"""The commands about a session's network: what it may reach, and what it tried to."""

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from alcove.cli import tables
from alcove.cli.allow import entries
from alcove.cli.denials import where
from alcove.cli.failures import warn
from alcove.cli.grammar import Given, Usage
from alcove.cli.local import with_backend
from alcove.contract import Limited, SandboxSession, Unrestricted, to_json
from alcove.local.exec.terminal import TerminalSandbox

if TYPE_CHECKING:
    from alcove.egress.audit import Record

_POLICIES: dict[str, Unrestricted | Limited] = {"none": Limited(), "host": Unrestricted()}
_VERBS = ("show", "allow", "deny", "log")
_HEADER = ("TIME", "WHAT", "WHERE", "ADDRESS", "SENT", "RECEIVED", "WHY")
# Of a column whose rows are not known yet
_WIDTHS = (24, 7, 32, 15, 8, 8, 0)


def net(given: Given) -> int:
    """Show a session's network, or change it to none or the host's."""
    session_id, *wanted = given.words
    if wanted and wanted[0] not in _POLICIES:
        raise Usage(_not_a_network(session_id, wanted[0]))

    async def work(backend: TerminalSandbox) -> int:
        if not wanted:
            return _show(backend.session(session_id), given)
        session = await backend.apply_network_policy(session_id, _POLICIES[wanted[0]])
        print(to_json(session).decode() if given["json"] else session.metadata["network"])
        return 0

    return with_backend(given, work)


def _not_a_network(session_id: str, word: str) -> str:
    from difflib import get_close_matches

    if close := get_close_matches(session_id, _VERBS, n=1):
        return f"there is no `alcove net {session_id}` with that order of words; write: alcove net {close[0]} {word}"
    said = f"a session's network is `none` or `host`, not `{word}`: alcove net {session_id} none"
    verb = word if word in _VERBS else "allow"
    return f"{said}\n  for single hosts: alcove net {verb} {session_id}{'' if verb in {'show', 'log'} else ' ENTRY…'}"


def show(given: Given) -> int:
    """Show what a session may reach."""

    async def work(backend: TerminalSandbox) -> int:
        return _show(backend.session(given.words[0]), given)

    return with_backend(given, work)


def allow(given: Given) -> int:
    """Add entries to a session's allow-list."""
    session_id, *words = given.words
    if not words and not given["allow_packages"]:
        raise Usage(f"say what to allow: alcove net allow {session_id} api.example.org")

    async def work(backend: TerminalSandbox) -> int:
        added = entries(given, words, backend.config)
        return _show(await backend.change_allow_list(session_id, allow=added), given)

    return with_backend(given, work)


def deny(given: Given) -> int:
    """Take entries out of a session's allow-list."""
    session_id, *words = given.words

    async def work(backend: TerminalSandbox) -> int:
        removed = backend.config.expanded(words)
        return _show(await backend.change_allow_list(session_id, deny=removed), given)

    return with_backend(given, work)


def _show(session: SandboxSession, given: Given) -> int:
    metadata = session.metadata
    allowed = metadata.get("allowed_hosts", "").split()
    if given["json"]:
        print(to_json(session).decode())
    elif allowed:
        tables.show(("ALLOWED", "WHAT IT ALLOWS"), [(entry, _meaning(entry)) for entry in allowed])
    else:
        print(metadata["network"])
    return 0


def _meaning(entry: str) -> str:
    from alcove.egress.addresses import FAKE_RANGE
    from alcove.egress.entries import AddressEntry, parse
    from alcove.egress.names import HOST_LOOPBACK

    meant = parse(entry, FAKE_RANGE)
    if isinstance(meant, AddressEntry):
        return "any TCP port of it" if meant.port is None else f"TCP port {meant.port} of it"
    if meant.name == HOST_LOOPBACK:
        return f"TCP port {meant.port} of this host's own loopback"
    whose = "every name below it" if meant.below else "that name"
    return f"{whose}: TCP port {meant.port}" if meant.port else f"{whose}: HTTP on port 80, TLS on port 443"


def log(given: Given) -> int:
    """Show what a session tried to reach."""

    async def work(backend: TerminalSandbox) -> int:
        session_id = given.words[0]
        if given["follow"]:
            await _follow(backend.follow_network_log(session_id), given)
            return 0
        records = list(backend.network_log(session_id))
        if given["json"]:
            print("".join(_json(record) for record in records), end="")
        elif records:
            tables.show(_HEADER, [_row(record) for record in records])
        else:
            _tell_nothing(backend.session(session_id))
        return 0

    return with_backend(given, work)


def _tell_nothing(session: SandboxSession) -> None:
    why = {
        "host": "it shares the host's network, of which nothing is logged",
        "none": "it has no network, so nothing of it is logged",
    }.get(session.metadata["network"], "it has not tried to reach anything")
    warn(f"no log of session {session.id}: {why}")


async def _follow(records: "AsyncIterator[Record]", given: Given) -> None:
    if not given["json"]:
        _print_padded(_HEADER)
    async for record in records:
        if given["json"]:
            print(_json(record), end="", flush=True)
        else:
            _print_padded(_row(record))


def _print_padded(row: Sequence[str]) -> None:
    line = "  ".join(cell.ljust(width) for cell, width in zip(row, _WIDTHS, strict=True))
    print(line.rstrip(), flush=True)


def _json(record: "Record") -> str:
    from msgspec.json import encode

    return f"{encode(record).decode()}\n"


def _row(record: "Record") -> tuple[str, ...]:
    """One record for people; what a guest has chosen is escaped already."""
    if record.kind == "policy":
        allowed = f"allowed from here on: {record.name}" if record.name else "nothing is allowed from here on"
        return (record.time, "policy", "", "", "", "", allowed)
    connected = record.kind == "connect"
    why = record.reason
    if record.count > 1:
        why += f" ({record.count} times)"
    if record.lost:
        why += f" ({record.lost} before it could not be written)"
    return (
        record.time,
        "allowed" if record.allowed else "denied",
        where(record),
        record.address if record.name else "",
        str(record.sent) if connected else "",
        str(record.received) if connected else "",
        why.strip(),
    )

"""What a command tried to reach and could not: told when it has ended, with what to add."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from alcove.cli.failures import warn
from alcove.contract import InvalidRequest, SandboxSession
from alcove.local.exec.terminal import TerminalSandbox

if TYPE_CHECKING:
    from alcove.egress.audit import Record
    from alcove.egress.policy import Policy

_MOST_SHOWN = 8


def tell(backend: TerminalSandbox, session_id: str, denied: "Iterable[Record]", *, stays: bool) -> None:
    """Tell what was denied; `stays`: the session can be given more now."""
    missing, others = _sorted(denied, _policy(backend, backend.session(session_id)))
    if missing:
        warn(f"denied: {_listed(missing)}\n  {_advice(session_id, missing, stays=stays)}")
    for line in others[:_MOST_SHOWN]:
        warn(line)
    if len(others) > _MOST_SHOWN:
        warn(f"and {len(others) - _MOST_SHOWN} more that were not reached")


def _sorted(denied: "Iterable[Record]", policy: "Policy | None") -> tuple[list[str], list[str]]:
    """Return the entries that are missing, and what other reasons there were."""
    missing: dict[str, None] = {}
    others: dict[str, None] = {}
    for record in denied:
        asked = record.name or record.address
        # never out of the reason's text, in which a guest may have its say
        entry = policy.missing(asked, record.port) if policy and asked else None
        if entry:
            missing.setdefault(entry)
        else:
            others.setdefault(f"{where(record)}: {record.reason}" if asked else record.reason)
    return list(missing), list(others)


def where(record: "Record") -> str:
    """Return what was asked for: a name or address, and the port."""
    asked = record.name or record.address
    if record.port is None:
        return asked
    return f"[{asked}]:{record.port}" if ":" in asked else f"{asked}:{record.port}"


def _policy(backend: TerminalSandbox, session: SandboxSession) -> "Policy | None":
    from alcove.egress.policy import Policy
    from alcove.egress.settings import fake

    try:
        return Policy.parse(session.metadata.get("allowed_hosts", "").split(), fake=fake(backend.config.egress))
    except InvalidRequest:  # made under another configuration: the reasons stand for themselves
        return None


def _listed(entries: list[str]) -> str:
    more = f" and {len(entries) - _MOST_SHOWN} more" if len(entries) > _MOST_SHOWN else ""
    return f"{', '.join(entries[:_MOST_SHOWN])}{more}"


def _advice(session_id: str, entries: list[str], *, stays: bool) -> str:
    from shlex import join

    shown = entries[:_MOST_SHOWN]
    if stays:
        return f"to allow that: {join(['alcove', 'net', 'allow', session_id, *shown])}"
    return f"to allow that: {join(word for entry in shown for word in ('--allow', entry))}"

"""What `diagnose` answers: plain data, the same for a table, for JSON and for a test."""

from typing import Literal

from msgspec import Struct

Status = Literal["ok", "limited", "missing"]


class Finding(Struct, frozen=True, kw_only=True):
    """One thing that this host can do, or cannot.

    `ok`: in force for every session. `limited`: sessions are made, and what `consequence` names is refused or weaker.
    `missing`: no session can be made until `remedy` was followed. `fact` is what was measured. `remedy` is a command to
    copy, empty where there is nothing to do; `alternatives` are other commands that do as well.
    """

    id: str
    what: str
    status: Status
    fact: str
    consequence: str = ""
    remedy: str = ""
    alternatives: tuple[str, ...] = ()


class Report(Struct, frozen=True):
    """A host's findings; `ok` when sessions can be made, `host` says which host and whose store it is about."""

    ok: bool
    host: dict[str, str]
    findings: tuple[Finding, ...]


def report(host: dict[str, str], findings: list[Finding]) -> Report:
    """Make a report: it is `ok` when nothing is missing."""
    return Report(ok=all(finding.status != "missing" for finding in findings), host=host, findings=tuple(findings))

"""`alcove doctor`."""

import asyncio

from alcove.cli import tables
from alcove.cli.failures import FAILED
from alcove.cli.grammar import Given, Usage
from alcove.cli.progress import counted
from alcove.local.doctor import Finding, diagnose
from alcove.local.doctor.fsck import Damage, StoreReport, check_store

#: What was found of the store, repaired or not; as fsck(8) has it.
_FOUND = 1


def doctor(given: Given) -> int:
    """Tell what this host can enforce; the exit code is 125 when it cannot make a session."""
    if given["store"]:
        return _store(given)
    if given["repair"] or given["verify"]:
        raise Usage("--repair and --verify are of the store: alcove doctor --store")
    report = diagnose()
    if given["json"]:
        from msgspec.json import encode

        print(encode(report).decode())
        return 0 if report.ok else FAILED
    tables.show(None, list(report.host.items()))
    print()
    tables.show(("", "WHAT", "FACT"), [(finding.status, finding.what, finding.fact) for finding in report.findings])
    for finding in report.findings:
        if finding.status != "ok":
            _explain(finding)
    print(f"\n{'Sessions can be made here.' if report.ok else 'No session can be made here yet.'}")
    return 0 if report.ok else FAILED


def _explain(finding: Finding) -> None:
    print(f"\n{finding.what}: {finding.consequence or finding.fact}")
    if finding.remedy:
        print(f"  fix: {finding.remedy}")
    for alternative in finding.alternatives:
        print(f"  or:  {alternative}")


def _store(given: Given) -> int:
    with counted("files read") as looked:
        report = asyncio.run(check_store(repair=given["repair"], verify=given["verify"], looked=looked))
    code = 0 if report.ok else _FOUND
    if given["json"]:
        from msgspec.json import encode

        print(encode(report).decode())
        return code
    if report.ok:
        print(f"{report.store}: nothing found")
        return code
    tables.show(("WHAT", "FACT", "DONE"), [(damage.what, damage.fact, damage.done) for damage in report.damages])
    left = [damage for damage in report.damages if not damage.done]
    for damage in left:
        if damage.remedy:
            print(f"\n{damage.what}: {damage.fact}\n  fix: {damage.remedy}")
    if left:
        print(f"\n{_advice(report, left)}")
    return code


def _advice(report: StoreReport, left: list[Damage]) -> str:
    if report.repaired:
        return f"{len(left)} of these could not be put right."
    changed = "Nothing was changed." if len(left) == len(report.damages) else "Nothing else was changed."
    return f"{changed} To put right what can be: alcove doctor --store --repair"

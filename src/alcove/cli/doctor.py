"""`alcove doctor`."""

from alcove.cli import tables
from alcove.cli.failures import FAILED
from alcove.cli.grammar import Given
from alcove.local.doctor import Finding, diagnose


def doctor(given: Given) -> int:
    """Tell what this host can enforce; the exit code is 125 when it cannot make a session."""
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

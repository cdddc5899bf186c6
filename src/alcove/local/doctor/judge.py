"""From facts to findings: pure, so that every kind of host can be judged anywhere."""

from collections.abc import Iterator

from msgspec.structs import replace

from alcove.local.doctor.facts import Facts, Trial
from alcove.local.doctor.report import Finding, Report, report
from alcove.local.doctor.resources import judge_resources
from alcove.local.doctor.steps import judge_steps

# The advice of launch.py's errors, which here would lead in a circle
_ASK_US = "; `alcove doctor` tells what this host lacks and how to fix it"


def judge(facts: Facts) -> Report:
    """Judge a host by what was measured there."""
    findings = list(_findings(facts))
    if facts.trial is not None:
        findings.append(_trial(facts.trial, [finding.id for finding in findings if finding.status == "missing"]))
    return report(_host(facts), [_without_sudo(finding) if facts.uid == 0 else finding for finding in findings])


def _without_sudo(finding: Finding) -> Finding:
    return replace(
        finding,
        remedy=finding.remedy.replace("sudo ", ""),
        alternatives=tuple(command.replace("sudo ", "") for command in finding.alternatives),
    )


def _host(facts: Facts) -> dict[str, str]:
    return {
        "distribution": facts.distribution or "unknown",
        "kernel": f"{facts.kernel} {facts.machine}",
        "container": facts.container or "none",
        "user": "root" if facts.uid == 0 else f"uid {facts.uid}",
        "launcher": facts.launcher,
        "store": facts.store.path,
    }


def _findings(facts: Facts) -> Iterator[Finding]:
    if facts.launcher_error:
        yield Finding(
            id="launcher",
            what="the native launcher",
            status="missing",
            fact=facts.launcher_error,
            consequence="no session can be made, and nothing below could be tried",
            remedy="python3 -m pip install --force-reinstall --no-deps alcove",
        )
    else:
        yield from judge_steps(facts)
    yield from judge_resources(facts)


def _trial(trial: Trial, causes: list[str]) -> Finding:
    if not trial.error:
        fact = f"made, used and ended in {trial.milliseconds:.1f} ms: {trial.isolation}; {trial.limits}"
        return Finding(id="session", what="a whole session", status="ok", fact=fact)
    because = f", because of: {', '.join(causes)}" if causes else ", and every step by itself succeeded"
    return Finding(
        id="session",
        what="a whole session",
        status="missing",
        fact=trial.error.removesuffix(_ASK_US),
        consequence=f"no session can be made{because}",
        remedy="" if causes else "sudo dmesg | tail -20",
    )

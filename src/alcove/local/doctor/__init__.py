"""`alcove doctor`: what this host can do, what it cannot, why, and the command that fixes it.

Facts are measured by trying (`gather`), and judged by pure functions (`judge`), so that a test can show any host.
"""

from alcove.local.config import LocalSandboxConfig
from alcove.local.doctor.facts import Facts
from alcove.local.doctor.gather import gather
from alcove.local.doctor.judge import judge
from alcove.local.doctor.report import Finding, Report

__all__ = ["Facts", "Finding", "Report", "diagnose", "gather", "judge"]


def diagnose(config: LocalSandboxConfig | None = None) -> Report:
    """Measure this host and judge it, for the user who asks.

    Leaves nothing behind but the store's directory, which the first session would make as well.
    """
    return judge(gather(config or LocalSandboxConfig()))

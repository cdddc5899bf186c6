"""Add up pytest's JUnit files: each skip with its reason, then the closing line.

Exits 1 for a failure, for a half that left nothing, and for a run of no test.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

FAILURES = {"failure", "error"}


@dataclass(frozen=True)
class Outcome:
    half: str
    kind: str
    name: str
    reason: str


def outcomes(file: Path) -> Iterator[Outcome]:
    for case in ET.parse(file).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        kinds = {child.tag: child.get("message", "") for child in case}
        kind = next((kind for kind in ("failure", "error", "skipped") if kind in kinds), "passed")
        yield Outcome(file.stem, kind, name, kinds.get(kind, ""))


def complaints(found: list[Outcome], expected: list[str], *, selected: bool, files: list[Path]) -> list[str]:
    told = []
    for half in expected:
        ran = [o for o in found if o.half == half and o.kind != "skipped"]
        if half not in {file.stem for file in files}:
            told.append(f"the {half} half left no results: it did not end by itself")
        elif not ran and not selected:
            told.append(f"the {half} half executed no test")
    if not any(o.kind != "skipped" for o in found):
        told.append("no test was executed")
    return told


def skips(found: list[Outcome]) -> list[str]:
    """Return a line for each reason, with all the tests it kept from running."""
    kept: dict[tuple[str, str], list[str]] = {}
    for outcome in found:
        if outcome.kind == "skipped":
            kept.setdefault((outcome.half, outcome.reason), []).append(outcome.name)
    return [f"skipped ({half}): {len(names)}: {reason}: {', '.join(names)}" for (half, reason), names in kept.items()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--expect", default="", help="the halves that must have run, separated by spaces")
    parser.add_argument("--selected", action="store_true", help="tests were picked by hand: a half may be empty")
    parser.add_argument("directories", nargs="+", type=Path)
    options = parser.parse_args()
    files = sorted(file for directory in options.directories for file in directory.rglob("*.xml"))
    found = [outcome for file in files for outcome in outcomes(file)]
    told = complaints(found, options.expect.split(), selected=options.selected, files=files)
    count = Counter("failed" if o.kind in FAILURES else o.kind for o in found)
    print("\n== summary")
    for line in skips(found) + [f"failed ({o.half}): {o.name}" for o in found if o.kind in FAILURES]:
        print(line)
    for complaint in told:
        print(complaint)
    print(f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
    return 1 if told or count["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())

"""Every claim of SPECIFICATION.md has an id, and every id a test that is there; the rest says that it is pending."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.docs.markdown import TREE, pages

ROW = re.compile(r"^\| (?P<id>[A-Z]+-\d\d) \| (?P<claim>.+) \| (?P<proof>[^|]+) \|$", re.MULTILINE)
PROOF = re.compile(r"`(?P<file>(?:tests|src/alcove/testing)/[\w/]+\.py)::(?P<test>[\w:]+)`")

CLAIMS = [match.groupdict() for match in ROW.finditer((TREE / "SPECIFICATION.md").read_text())]


@cache
def tests_in(path: Path) -> frozenset[str]:
    """The tests of a file: functions, and methods as `Class::method`, those of a base class in our own tree too."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            methods = [each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
            found.update(f"{node.name}::{method.name}" for method in methods)
    return frozenset(found)


def test_there_are_claims() -> None:
    lines = [line for line in (TREE / "SPECIFICATION.md").read_text().splitlines() if re.match(r"\| [A-Z]+-\d", line)]

    assert len(CLAIMS) == len(lines) > 60


def test_ids_are_unique_and_in_order() -> None:
    ids = [claim["id"] for claim in CLAIMS]

    assert len(set(ids)) == len(ids)
    for family in {name.partition("-")[0] for name in ids}:
        numbers = [int(name.partition("-")[2]) for name in ids if name.startswith(f"{family}-")]
        assert numbers == list(range(1, len(numbers) + 1)), family


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim["id"])
def test_a_claim_is_proved_or_pending(claim: dict[str, str]) -> None:
    proofs = list(PROOF.finditer(claim["proof"]))

    assert bool(proofs) != (claim["proof"].strip() == "*pending*"), claim["proof"]
    for proof in proofs:
        path = TREE / proof["file"]
        assert path.is_file(), proof["file"]
        assert proof["test"] in tests_in(path), proof[0]


def test_ids_that_pages_name_exist() -> None:
    known = {claim["id"] for claim in CLAIMS}
    families = "|".join(sorted({name.partition("-")[0] for name in known}))
    for page in pages():
        named = set(re.findall(rf"\b(?:{families})-\d\d\b", page.read_text()))
        assert named <= known, f"{page.relative_to(TREE)}: {sorted(named - known)}"

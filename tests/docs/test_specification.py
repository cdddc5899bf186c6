"""Every claim of SPECIFICATION.md has an id, and every id a test that is there; the rest says that it is pending."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.docs.markdown import TREE, pages

ROW = re.compile(r"^\| (?P<id>[A-Z]+-\d\d) \| (?P<claim>.+) \| (?P<proof>[^|]+) \|$", re.MULTILINE)
PROOF = re.compile(r"`(?P<file>(?:tests|src/alcove/testing)/[\w/]+\.py)::(?P<test>[\w:]+)`")

CLAIMS = [match.groupdict() for match in ROW.finditer((TREE / "SPECIFICATION.md").read_text())]


@cache
def defined_in(path: Path) -> frozenset[str]:
    """The tests of a file: functions, and methods as `Class::method`; some stand under an `if` of the architecture."""
    return frozenset(_defined(ast.parse(path.read_text()).body))


def _defined(body: list[ast.stmt], within: str = "") -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{within}{node.name}"
        elif isinstance(node, ast.ClassDef):
            yield from _defined(node.body, f"{within}{node.name}::")
        elif isinstance(node, ast.If):
            yield from _defined([*node.body, *node.orelse], within)


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
        assert proof["test"] in defined_in(path), proof[0]


def test_ids_that_pages_name_exist() -> None:
    known = {claim["id"] for claim in CLAIMS}
    families = "|".join(sorted({name.partition("-")[0] for name in known}))
    for page in pages():
        named = set(re.findall(rf"\b(?:{families})-\d\d\b", page.read_text()))
        assert named <= known, f"{page.relative_to(TREE)}: {sorted(named - known)}"

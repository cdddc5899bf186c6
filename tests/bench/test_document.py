import json
from typing import Any

import pytest

from bench.document import CaseRow, Document, decode, encode
from tests.bench.examples import case_row, document


def example() -> Document:
    rows = {"alcove": [2.0, 4.0, 6.0], "subprocess.run": [1.0, 2.0, 3.0]}
    return document([case_row("live", "time", rows)])


def test_a_document_comes_back_as_it_was() -> None:
    assert decode(encode(example())) == example()


def test_the_keys_are_the_schema() -> None:
    data = json.loads(encode(example()))
    assert list(data) == list(Document.__struct_fields__)
    assert list(data["cases"][0]) == list(CaseRow.__struct_fields__)
    assert data["schema"] == 1
    assert data["cases"][0]["series"][0] == {"contender": "alcove", "metric": "time", "samples": [2.0, 4.0, 6.0]}


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"schema": 2}, "schema"),
        ({"surplus": 1}, "surplus"),
        ({"host": {}}, "host"),
        ({"cases": [{"id": 1}]}, "cases"),
        ({"targets": [{"verdict": "perhaps"}]}, "targets"),
    ],
)
def test_another_schema_is_refused_with_the_place(change: dict[str, Any], place: str) -> None:
    data = json.loads(encode(example())) | change
    with pytest.raises(ValueError, match=place):
        decode(json.dumps(data).encode())


def test_garbage_is_refused() -> None:
    for garbage in (b"", b"null", b"[]", b"{", b"\xff"):
        with pytest.raises(ValueError, match="not a benchmark document"):
            decode(garbage)


def test_ratios_come_from_the_samples() -> None:
    case = example().cases[0]
    found = case.ratio("alcove", "time")
    assert found is not None
    assert found.median == 2.0
    assert case.ratio("nobody", "time") is None
    assert case.ratio("alcove", "nothing") is None
    assert case.ratio("alcove", "time", "nobody") is None


def test_a_baseline_of_zero_has_no_ratio() -> None:
    assert case_row("x", "time", {"alcove": [1.0], "subprocess.run": [0.0]}).ratio("alcove", "time") is None

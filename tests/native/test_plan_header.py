"""native/plan.h and alcove.local.cell.operations are two halves of one format."""

import re
from pathlib import Path

import pytest

from alcove.local.cell.operations import Kind, Stdio, Tree, operation, strings

HEADER = (Path(__file__).parents[2] / "native" / "plan.h").read_text()


def enumerators(prefix: str) -> dict[str, int]:
    """The names and values of C enumerators that begin with `prefix`, counted as C counts them."""
    found: dict[str, int] = {}
    value = -1
    without_comments = re.sub(r"/\*.*?\*/", "", HEADER, flags=re.DOTALL)
    for name, given in re.findall(rf"\b{prefix}_(\w+)(?:\s*=\s*(\d+))?(?=\s*[,}}\n])", without_comments):
        value = int(given) if given else value + 1
        found.setdefault(name, value)
    return found


@pytest.mark.parametrize(("prefix", "names"), [("OP", Kind), ("TREE", Tree), ("STDIO", Stdio)])
def test_both_halves_name_the_same_numbers(prefix: str, names: type) -> None:
    ours = {name: value for name, value in vars(names).items() if name.isupper()}
    assert ours == enumerators(prefix)


def test_an_operation_is_laid_out_as_the_header_says() -> None:
    encoded = operation(Kind.TREE, "/usr", "usr", flags=3, n0=1, n1=2, v0=3, v1=4)
    assert len(encoded) % 8 == 0
    assert encoded[40:49] == b"/usr\0usr\0"
    assert int.from_bytes(encoded[32:36], "little") == len("/usr")


def test_strings_keep_bytes_that_are_no_utf_8() -> None:
    encoded = strings(Kind.ARGV, ("a", "\udcff", ""))
    assert encoded[40:46] == b"a\0\xff\0\0\0"
    assert int.from_bytes(encoded[8:12], "little") == 3

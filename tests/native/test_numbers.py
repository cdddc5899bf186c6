"""Numbers that the launcher reads out of /proc, by its own reader (native/processes.c)."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[2] / "native"
LARGEST = 2**63 - 1
PROGRAM = """
#include "session.h"
#include <stdio.h>
int main(int count, char **texts)
{
    const char *text = count == 2 ? texts[1] : "";
    long long number = (long long)number_read(&text);
    printf("%lld %s", number, text);
    return 0;
}
"""


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("numbers")
    source = directory / "reader.c"
    source.write_text(PROGRAM)
    compiler = [*shlex.split(os.environ.get("CC", "cc")), "-D_GNU_SOURCE", f"-I{NATIVE}"]
    subprocess.run([*compiler, source, NATIVE / "processes.c", "-o", directory / "reader"], check=True, timeout=60)
    return directory / "reader"


@pytest.mark.parametrize(
    ("text", "number", "rest"),
    [
        ("7 8", 7, " 8"),
        ("  0)", 0, ")"),
        ("2147483648", 2**31, ""),
        (str(LARGEST // 10), LARGEST // 10, ""),
        (str(LARGEST), LARGEST, ""),
        (str(LARGEST + 1), LARGEST, ""),
        ("9" * 40 + "x", LARGEST, "x"),
        ("-1", -1, "-1"),
        ("", -1, ""),
    ],
)
def test_a_number_beyond_the_largest_is_the_largest(reader: Path, text: str, number: int, rest: str) -> None:
    done = subprocess.run([reader, text], capture_output=True, check=True, text=True, timeout=10)
    assert done.stdout == f"{number} {rest}"

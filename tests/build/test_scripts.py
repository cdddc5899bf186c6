"""The scripts behind make that can be wrong without anybody noticing."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import check_tree, package_files, requirements

TREE = Path(__file__).parent.parent.parent
PASSED = '<testcase classname="a" name="passes"/>'
SKIPPED = '<testcase classname="a" name="waits"><skipped message="no kernel for it"/></testcase>'
FAILED = '<testcase classname="a" name="breaks"><failure message="1 != 2"/></testcase>'
BROKEN = '<testcase classname="a" name="explodes"><error message="fixture"/></testcase>'


def summary(directory: Path, *arguments: str, **halves: str) -> subprocess.CompletedProcess[str]:
    for half, cases in halves.items():
        (directory / f"{half}.xml").write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    argv = [sys.executable, str(TREE / "scripts/test_summary.py"), *arguments, str(directory)]
    return subprocess.run(argv, capture_output=True, check=False, text=True, timeout=20)


def test_the_summary_adds_up_the_halves_and_gives_the_reason_of_a_skip(tmp_path: Path) -> None:
    done = summary(tmp_path, "--expect", "root user", root=PASSED + SKIPPED, user=PASSED)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "2 passed, 0 failed, 1 skipped"
    assert "skipped (root): 1: no kernel for it: a::waits" in done.stdout


@pytest.mark.parametrize("case", [FAILED, BROKEN])
def test_the_summary_fails_with_a_failure_or_an_error(case: str, tmp_path: Path) -> None:
    done = summary(tmp_path, "--expect", "root", root=PASSED + case)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "1 passed, 1 failed, 0 skipped")


@pytest.mark.parametrize(
    ("halves", "complaint"),
    [
        ({"root": PASSED}, "the user half left no results: it did not end by itself"),
        ({"root": PASSED, "user": SKIPPED}, "the user half executed no test"),
        ({"root": "", "user": ""}, "no test was executed"),
    ],
)
def test_a_half_that_ran_nothing_fails(halves: dict[str, str], complaint: str, tmp_path: Path) -> None:
    done = summary(tmp_path, "--expect", "root user", **halves)
    assert done.returncode == 1
    assert complaint in done.stdout


def test_tests_picked_by_hand_may_leave_a_half_empty_but_not_both(tmp_path: Path) -> None:
    assert summary(tmp_path, "--selected", "--expect", "root user", root=PASSED, user="").returncode == 0
    assert summary(tmp_path, "--selected", "--expect", "root user", root="", user="").returncode == 1


def test_no_results_at_all_fail(tmp_path: Path) -> None:
    assert summary(tmp_path).returncode == 1


def test_a_package_is_its_sources_and_data(tmp_path: Path) -> None:
    for name in ("p/a.py", "p/data/x86_64.bpf", "p/__pycache__/a.pyc", "p/.hidden", "p/a.py~", "p/b/__pycache__/b.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [str(path) for path in package_files.package_files(tmp_path, "p")] == ["p/a.py", "p/data/x86_64.bpf"]


def test_requirements_resolve_our_own_extras() -> None:
    wanted = requirements.requirements(["dev"])
    assert any(line.startswith("pytest>") for line in wanted)
    assert any(line.startswith("meson-python") for line in wanted)
    assert not any(line.startswith("alcove") for line in wanted)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("see https://index.example.org/simple/x", True),
        ("index.example.org", True),
        ("index.example.organic and myindex.example.org", False),
        ("cd /checkouts/here/src", True),
        ("/mnt/checkouts/here", False),
    ],
)
def test_hosts_and_paths_of_the_machine_are_found_as_whole_names(
    line: str, found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_tree, "registry_hosts", lambda: {"index.example.org"})
    monkeypatch.setattr(check_tree, "machine_paths", lambda: {"/checkouts/here"})
    told = list(check_tree.faults(TREE / "x.md", line, check_tree.forbidden()))
    assert bool(told) == found


def test_this_machine_has_registries_to_look_for() -> None:
    assert check_tree.registry_hosts()


def test_make_has_one_line_for_each_target() -> None:
    makefile = (TREE / "Makefile").read_text()
    assert {"demo", "test", "check", "bench", "e2e", "soak"} <= set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    assert "\n\t" not in makefile

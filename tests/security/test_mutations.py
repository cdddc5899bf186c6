"""Every security test fails when what it tests is taken away: layers compiled out, policies left out, texts changed.

Each mutation names the tests that must notice; all of them must fail, and pass with nothing changed.
"""

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.conftest import TREE
from tests.security.mutants import MUTANTS

pytestmark = [pytest.mark.security, pytest.mark.mutation, pytest.mark.timeout(300)]

AS_ROOT = os.geteuid() == 0
FILES = "tests/security/test_files.py::"
MOUNTS = "tests/security/test_mounts.py::"
SYSCALLS = "tests/security/test_syscalls.py::"
PROCESSES = "tests/security/test_processes.py::"
EXHAUSTION = "tests/security/test_exhaustion.py::"
COPIES = "tests/security/test_copy_on_write.py::"
PARAMETERS = "tests/security/test_parameters.py::"

OWN = PROCESSES + "TestPk12::test_pk12_namespaces_are_its_own[first]"
#: Switch of meson_options.txt to the tests that must notice.
MUTATIONS: dict[str, list[str]] = {
    "cellns": [PROCESSES + "TestPk12::test_pk12_two_user_namespaces_lie_between_a_guest_and_the_host[first]"],
    "netns": [OWN, SYSCALLS + "TestPk06::test_pk06_the_network_is_not_administered[first]"],
    "ipcns": [OWN, FILES + "TestFs18::test_fs18_nothing_of_the_hosts_is_there"],
    "utsns": [OWN],
    "cgroupns": [OWN],
    "mntmask": [MOUNTS + "TestFs06::test_fs06_what_leaks_the_host_is_covered[first]"],
    "caps": [PROCESSES + "TestPk12::test_pk12_capabilities_are_the_small_set_and_cannot_grow[first]"],
    "nnp": [SYSCALLS + "TestPk01::test_pk01_the_filter_of_every_guest_is_ours_and_one[first]"],
    "landlock": [
        FILES + "TestFs04::test_fs04_an_interpreter_line_does_not_execute_the_launcher",
        FILES + "TestFs18::test_fs18_abstract_sockets_of_the_host_are_out_of_reach[unrestricted]",
    ],
    "seccomp": [
        SYSCALLS + "TestPk01::test_pk01_every_number_has_its_verdict[False-False]",
        SYSCALLS + "TestPk02::test_pk02_the_32_bit_gates_are_closed[first]",
        SYSCALLS + "TestPk05::test_pk05_sockets_are_those_of_the_list[first]",
        SYSCALLS + "TestPk08To10::test_pk08_pk09_pk10_no_surface_gives_anything[first]",
        SYSCALLS + "TestPk20::test_pk20_no_listener_over_others",
        FILES + "TestFs11::test_fs11_no_set_id_file_in_the_session[first]",
        FILES + "TestFs11::test_fs11_no_set_id_file_on_an_attached_directory",
    ],
    "rlimits": [EXHAUSTION + "TestRx05::test_rx05_descriptors_are_held"],
    "nondumpable": [PROCESSES + "TestPk07::test_pk07_no_process_of_ours_is_looked_into[first]"],
    "closefds": [PROCESSES + "TestPk18::test_pk18_descriptors_are_the_three[first]"],
}
if AS_ROOT:
    MUTATIONS["cgroup"] = [
        PROCESSES + "TestPk16::test_pk16_groups_are_not_left[first]",
        EXHAUSTION + "TestRx02::test_rx02_the_kernels_kill_is_told_apart",
        EXHAUSTION + "TestRx08::test_rx08_a_quota_of_processor_time_holds",
    ]

#: Policy that lives in Python: see mutants.py.
POLICIES: dict[str, list[str]] = {
    "no_masks": [MOUNTS + "TestFs06::test_fs06_what_leaks_the_host_is_covered[first]"],
    "writable_sysctls": [
        MOUNTS + "TestFs06::test_fs06_sysctls_are_read_only_even_those_of_the_sessions_own_namespaces"
    ],
    "unsealed_root": [MOUNTS + "TestFs06::test_fs06_every_mount_is_nosuid_and_read_only_below"],
    "host_root_mapped": [PROCESSES + "TestPk12::test_pk12_the_hosts_root_is_no_id_of_a_session[first]"],
    "set_id_allowed": [
        FILES + "TestFs11::test_fs11_no_set_id_file_in_the_session[first]",
        FILES + "TestFs11::test_fs11_no_set_id_file_on_an_attached_directory",
    ],
    "every_capability": [PROCESSES + "TestPk12::test_pk12_capabilities_are_the_small_set_and_cannot_grow[first]"],
    "toolchain_writable": [FILES + "TestFs01::test_fs01_shown_directories_stay_as_they_are[first]"],
    "nested_user_namespaces": [MOUNTS + "TestFs08::test_fs08_no_budget_for_user_namespaces_either"],
    "no_landlock_scopes": [FILES + "TestFs18::test_fs18_abstract_sockets_of_the_host_are_out_of_reach[unrestricted]"],
    "written_through": [COPIES + "TestHost::test_cow_the_host_stays_as_it_is"],
    "git_trusted": [COPIES + "TestApplied::test_cow_what_git_would_run_is_not_applied_unless_named"],
    "host_changes_ignored": [COPIES + "TestApplied::test_cow_what_the_host_changed_is_not_written_over"],
}

#: A file of native/, what stands there, what is put in its place, and the tests that must notice.
TEXTS: dict[str, tuple[str, str, str, list[str]]] = {
    "links-followed": (
        "attach.c",
        "SYS_RESOLVE_NO_SYMLINKS | ",
        "",
        [PARAMETERS + "TestAp07::test_ap08_no_mount_point_is_made_through_a_guests_link[/workspace/inner/in]"],
    ),
    "propagation": (
        "mounts.c",
        ".propagation = MS_PRIVATE",
        ".propagation = MS_SHARED",
        [MOUNTS + "TestFs09::test_fs09_no_mount_is_a_peer_or_a_slave_of_the_hosts[first]"],
    ),
    "layers-in-the-cell": (
        "overlay.c",
        "unshare(CLONE_NEWNS) < 0",
        "0",
        [COPIES + "TestLayers::test_cow_the_layers_are_not_seen_in_the_cell"],
    ),
    "set-id-honoured": (
        "mounts.c",
        "(tree_flags & TREE_NOSUID ? SYS_MOUNT_ATTR_NOSUID : 0U)",
        "0U",
        [MOUNTS + "TestFs06::test_fs06_every_mount_is_nosuid_and_read_only_below"],
    ),
}


def outcomes(directory: Path, tests: list[str], **environment: str) -> dict[str, str]:
    """Run tests in a process of their own; return for each "passed" or how it failed."""
    results = directory / "results.xml"
    argv = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-o", f"cache_dir={directory / 'cache'}", "-q"]
    argv += [f"--basetemp={directory / 'tmp'}", f"--junitxml={results}", "--timeout=60", *tests]
    done = subprocess.run(
        argv,
        capture_output=True,
        check=False,
        cwd=TREE,
        env={**os.environ, "ALCOVE_TEST_LEAKS": "off", **environment},
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=280,
    )
    assert results.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    found = {}
    for case in ET.parse(results).iter("testcase"):
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        words = [*str(case.get("classname")).split("."), str(case.get("name"))]
        found["::".join(words[words.index("security") + 1 :])] = ", ".join(sorted(kinds)) or "passed"
    wanted = {test.removeprefix("tests/security/").replace(".py", "") for test in tests}
    assert found.keys() == wanted, done.stdout[-3000:]
    return found


def noticed(found: dict[str, str]) -> None:
    survived = [test for test, outcome in found.items() if outcome == "passed" or "skipped" in outcome]
    assert survived == []


@functools.cache
def all_tests() -> list[str]:
    named = [*MUTATIONS.values(), *POLICIES.values(), *(tests for *_, tests in TEXTS.values())]
    return sorted({test for tests in named for test in tests})


def test_with_nothing_taken_away_all_pass(tmp_path: Path) -> None:
    assert {test: outcome for test, outcome in outcomes(tmp_path, all_tests()).items() if outcome != "passed"} == {}


def test_every_switch_has_its_tests() -> None:
    text = (TREE / "meson_options.txt").read_text().partition("option('off'")[2].partition("option(")[0]
    switches = set(text.partition("choices: [")[2].partition("]")[0].replace("'", "").replace(" ", "").split(","))
    assert switches - {"cgroup"} == MUTATIONS.keys() - {"cgroup"}
    assert POLICIES.keys() == MUTANTS.keys()


@pytest.mark.parametrize("switch", MUTATIONS)
def test_a_layer_compiled_out_is_noticed(switch: str, native_variant: Callable[..., Path], tmp_path: Path) -> None:
    launcher = native_variant(f"no-{switch}", f"-Doff={switch}")
    noticed(outcomes(tmp_path, MUTATIONS[switch], ALCOVE_TEST_NATIVE=str(launcher)))


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_left_out_is_noticed(policy: str, tmp_path: Path) -> None:
    noticed(outcomes(tmp_path, POLICIES[policy], ALCOVE_TEST_MUTANT=policy))


@pytest.mark.parametrize("name", TEXTS)
def test_a_changed_text_is_noticed(name: str, tmp_path: Path) -> None:
    file, old, new, tests = TEXTS[name]
    native = Path(shutil.copytree(TREE / "native", tmp_path / "native"))
    text = (native / file).read_text()
    assert text.count(old) == 1, f"native/{file} no longer has {old!r}: choose what to change anew"
    (native / file).write_text(text.replace(old, new))
    launcher = tmp_path / "alcove-warden"
    sources = sorted(str(path) for path in native.glob("*.c") if path.name != "fuzz_plan.c")
    subprocess.run(["cc", "-std=gnu11", "-D_GNU_SOURCE", "-O1", "-o", launcher, *sources], check=True, timeout=60)
    noticed(outcomes(tmp_path, tests, ALCOVE_TEST_NATIVE=str(launcher)))

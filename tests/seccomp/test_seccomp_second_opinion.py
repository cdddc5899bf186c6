"""The same policy built by libseccomp, and the same numbers from the system's headers: neither knows our generator."""

import ctypes
import ctypes.util
import os
import re
import subprocess

import pytest

from alcove.local import seccomp
from tests.seccomp.bpf_machine import ALLOW, AUDIT_ARCH, ERRNO, KILL_PROCESS, run
from tools.seccomp import policy

NUMBERS = policy.load().numbers
SCMP_ACT_KILL_PROCESS = 0x80000000
SCMP_FLTATR_ACT_BADARCH = 2
SCMP_ARCH_NATIVE = 0
RETURNED = {"ALLOW": ALLOW, "EPERM": ERRNO | 1, "ENOSYS": ERRNO | 38}

_found = ctypes.util.find_library("seccomp")
library = ctypes.CDLL(_found) if _found else None
needs_libseccomp = pytest.mark.skipif(library is None, reason="libseccomp2 is not installed")
each_architecture = pytest.mark.parametrize("arch", seccomp.ARCHITECTURES)


def _resolve(arch: str, name: str) -> int | None:
    """libseccomp's number of `name`; None where it knows none, or an older kernel's."""
    assert library is not None
    number = int(library.seccomp_syscall_resolve_name_arch(ctypes.c_uint32(AUDIT_ARCH[arch]), name.encode()))
    return number if number >= 0 else None


def _build(arch: str, verdicts: dict[str, str]) -> bytes:
    """libseccomp's own program for the calls in `verdicts`, all others ENOSYS."""
    assert library is not None
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(RETURNED["ENOSYS"])))
    bad_arch = ctypes.c_uint32(SCMP_ACT_KILL_PROCESS)
    steps = [library.seccomp_attr_set(context, SCMP_FLTATR_ACT_BADARCH, bad_arch)]
    if arch != os.uname().machine:
        steps.append(library.seccomp_arch_add(context, ctypes.c_uint32(AUDIT_ARCH[arch])))
        steps.append(library.seccomp_arch_remove(context, ctypes.c_uint32(SCMP_ARCH_NATIVE)))
    for name, word in verdicts.items():
        if word != "ENOSYS":
            # A rule takes the native number, or the negative one that stands for a call without one
            number = library.seccomp_syscall_resolve_name(name.encode())
            steps.append(library.seccomp_rule_add(context, ctypes.c_uint32(RETURNED[word]), number, 0))
    with os.fdopen(os.memfd_create("program"), "w+b") as file:
        steps.append(library.seccomp_export_bpf(context, file.fileno()))
        library.seccomp_release(context)
        assert set(steps) == {0}
        file.seek(0)
        return file.read()


@needs_libseccomp
@each_architecture
@pytest.mark.parametrize("debug", [False, True])
def test_libseccomp_comes_to_the_same_verdicts(arch: str, debug: bool) -> None:
    """For every number but those that libseccomp does not know and those judged by argument."""
    verdicts = seccomp.verdicts(arch, debug=debug, set_id=False)
    compared = {name: word for name, word in verdicts.items() if word in RETURNED and _resolve(arch, name) is not None}
    assert len(compared) > 0.8 * len(verdicts)
    ours, theirs = seccomp.program(arch, debug=debug, set_id=False), _build(arch, compared)
    left_out = {NUMBERS[arch][name] for name in verdicts.keys() - compared.keys()}
    for number in set(range(1024)) - left_out:
        assert run(ours, AUDIT_ARCH[arch], number).value == run(theirs, AUDIT_ARCH[arch], number).value, number
    for program in (ours, theirs):
        assert run(program, 0x40000003, 20).value == KILL_PROCESS


@needs_libseccomp
@each_architecture
def test_libseccomp_has_the_same_numbers(arch: str) -> None:
    theirs = {name: _resolve(arch, name) for name in NUMBERS[arch]}
    assert {name: number for name, number in theirs.items() if number is not None} == {
        name: number for name, number in NUMBERS[arch].items() if theirs[name] is not None
    }


def test_this_machine_has_the_same_numbers() -> None:
    command = ["cc", "-E", "-dM", "-x", "c", "-include", "sys/syscall.h", os.devnull]
    defined = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    theirs = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", defined)}
    ours = NUMBERS[os.uname().machine]
    known = {name: number for name, number in theirs.items() if name in ours}
    assert len(known) > 300
    assert known == {name: ours[name] for name in known}
    assert set(theirs) <= set(ours)

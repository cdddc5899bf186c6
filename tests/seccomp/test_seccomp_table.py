"""The programs by interpreter, over all numbers: the committed table, THREATS' list, libseccomp, the generator."""

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from alcove.local import seccomp
from tests.seccomp.bpf_machine import ALLOW, AUDIT_ARCH, AUDIT_ARCH_FOREIGN, ERRNO, KILL_PROCESS, run
from tools.seccomp import __main__ as generator
from tools.seccomp import bpf, policy

ROOT = Path(__file__).parents[2]
EPERM, ENOSYS = ERRNO | 1, ERRNO | 38
NUMBERS = policy.load().numbers
VARIANTS = [
    pytest.param(arch, debug, set_id, id=f"{arch}{'-debug' * debug}{'-set_id' * set_id}")
    for arch, debug, set_id in itertools.product(seccomp.ARCHITECTURES, (False, True), (False, True))
]
each_program = pytest.mark.parametrize(("arch", "debug", "set_id"), VARIANTS)
each_architecture = pytest.mark.parametrize("arch", seccomp.ARCHITECTURES)

# Arguments among which every argument rule finds one to allow and one to refuse.
_SAMPLES = [(0,) * 6, (1,) * 6, (0xFFFFFFFF,) * 6, (0, 0x5412), (35, 8, 1), (0, 6, 31), (0, 0x2FFF, 0x2FFF, 0xFFF)]

# The deny list of THREATS 4.1, by hand.
_REFUSED = """
    unshare setns mount umount2 pivot_root chroot fsopen fsconfig fsmount fspick move_mount open_tree open_tree_attr
    mount_setattr swapon swapoff keyctl add_key request_key bpf perf_event_open userfaultfd fanotify_init
    fanotify_mark kexec_load kexec_file_load init_module finit_module delete_module open_by_handle_at
    name_to_handle_at quotactl quotactl_fd acct syslog reboot iopl ioperm modify_ldt uselib ustat sysfs _sysctl
    nfsservctl lookup_dcookie memfd_secret move_pages migrate_pages mbind set_mempolicy set_mempolicy_home_node
    lsm_set_self_attr settimeofday clock_settime clock_adjtime adjtimex ptrace process_vm_readv process_vm_writev
    kcmp pidfd_getfd process_madvise
"""
_ABSENT = """
    clone3 openat2 io_uring_setup io_uring_enter io_uring_register statmount listmount listns vmsplice get_mempolicy
"""
_NEEDED = """
    rseq membarrier set_robust_list getrandom memfd_create execveat pidfd_open pidfd_send_signal waitid
    sched_setattr sched_getaffinity seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self
    map_shadow_stack mseal futex_waitv futex_wake futex_wait futex_requeue cachestat setxattrat getxattrat
    listxattrat removexattrat file_getattr file_setattr fchmodat2 faccessat2 close_range epoll_pwait2 statx
    renameat2 copy_file_range mkdirat mknodat uname splice tee rseq_slice_yield lsm_get_self_attr lsm_list_modules
    process_mrelease
"""


def _word(value: int) -> str:
    return {ALLOW: "ALLOW", EPERM: "EPERM", ENOSYS: "ENOSYS"}.get(value, "another")


@each_program
def test_every_number_has_the_verdict_of_the_table(arch: str, debug: bool, set_id: bool) -> None:
    program = seccomp.program(arch, debug=debug, set_id=set_id)
    table = {
        NUMBERS[arch][name]: verdict for name, verdict in seccomp.verdicts(arch, debug=debug, set_id=set_id).items()
    }
    for number in [*range(1024), 0x3FFFFFFF, 0x7FFFFFFF, 0xFFFFFFFF]:
        words = {_word(run(program, AUDIT_ARCH[arch], number, args).value) for args in _SAMPLES}
        expected = table.get(number, "ENOSYS")
        if expected == "BY_ARGUMENT":
            assert "ALLOW" in words, number
            assert len(words) > 1, number
        else:
            assert words == {expected}, number


@each_program
def test_x32_numbers_are_unknown(arch: str, debug: bool, set_id: bool) -> None:
    program = seccomp.program(arch, debug=debug, set_id=set_id)
    for number in range(1024):
        assert run(program, AUDIT_ARCH[arch], 0x40000000 | number).value == ENOSYS


@each_program
def test_a_call_of_another_architecture_kills(arch: str, debug: bool, set_id: bool) -> None:
    program = seccomp.program(arch, debug=debug, set_id=set_id)
    foreign = {*AUDIT_ARCH_FOREIGN.values(), *AUDIT_ARCH.values()} - {AUDIT_ARCH[arch]}
    for audit, number in itertools.product(foreign, range(1024)):
        assert run(program, audit, number).value == KILL_PROCESS


@each_architecture
@pytest.mark.parametrize(("names", "word"), [(_REFUSED, "EPERM"), (_ABSENT, "ENOSYS")])
def test_the_deny_list_is_denied(arch: str, names: str, word: str) -> None:
    verdicts = seccomp.verdicts(arch, debug=False, set_id=False)
    assert {name: verdicts[name] for name in names.split() if name in verdicts} == {
        name: word for name in names.split() if name in NUMBERS[arch]
    }


@each_architecture
def test_what_runtimes_need_is_not_refused(arch: str) -> None:
    verdicts = seccomp.verdicts(arch, debug=False, set_id=False)
    assert {name for name in _NEEDED.split() if verdicts[name] not in ("ALLOW", "BY_ARGUMENT")} == set()


@each_architecture
def test_only_these_calls_are_looked_at_by_argument(arch: str) -> None:
    """What takes no argument into account is cached by the kernel, so this list is the price of the filter."""
    verdicts = seccomp.verdicts(arch, debug=False, set_id=False)
    expected = {
        *("clone", "personality", "ioctl", "prctl", "seccomp", "socket", "socketpair", "setsockopt"),
        *("open", "openat", "creat", "mknod", "mknodat", "chmod", "fchmod", "fchmodat", "fchmodat2"),
    }
    assert {name for name, word in verdicts.items() if word == "BY_ARGUMENT"} == expected & set(NUMBERS[arch])


@each_architecture
def test_debug_opens_these_and_no_more(arch: str) -> None:
    plain, debug = (seccomp.verdicts(arch, debug=on, set_id=False) for on in (False, True))
    opened = {"ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd", "process_madvise"}
    assert {name for name in plain if plain[name] != debug[name]} == opened
    assert {debug[name] for name in opened} == {"ALLOW"}


@each_architecture
def test_set_id_opens_these_and_no_more(arch: str) -> None:
    plain, set_id = (seccomp.verdicts(arch, debug=False, set_id=on) for on in (False, True))
    opened = {"chmod", "fchmod", "fchmodat", "fchmodat2", "creat", "open", "openat", "openat2"} & set(NUMBERS[arch])
    assert {name for name in plain if plain[name] != set_id[name]} == opened
    assert {set_id[name] for name in opened} == {"ALLOW"}


@each_program
def test_programs_stay_small_and_their_paths_short(arch: str, debug: bool, set_id: bool) -> None:
    program = seccomp.program(arch, debug=debug, set_id=set_id)
    assert len(program) % 8 == 0
    assert len(program) // 8 <= 200
    judged = {
        name for name, word in seccomp.verdicts(arch, debug=debug, set_id=set_id).items() if word == "BY_ARGUMENT"
    }
    plain = set(range(1024)) - {NUMBERS[arch][name] for name in judged}
    assert max(run(program, AUDIT_ARCH[arch], number).steps for number in plain) <= 16
    for name, most in {"openat": 10, "ioctl": 13, "clone": 12, "prctl": 14, "socket": 16}.items():
        assert run(program, AUDIT_ARCH[arch], NUMBERS[arch][name], (1, 1)).steps <= most, name


def test_the_shipped_files_are_what_the_policy_says() -> None:
    command = [sys.executable, "-m", "tools.seccomp", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_check_sees_a_changed_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = generator.generate(policy.load())
    monkeypatch.setattr(generator, "SHIPPED", tmp_path)
    monkeypatch.setattr(generator, "generate", lambda _: files)
    assert generator.main([]) == 0
    assert generator.main(["--check"]) == 0
    (tmp_path / "x86_64.default.bpf").write_bytes(files["x86_64.debug.bpf"])
    assert generator.main(["--check"]) == 1
    assert generator.main([]) == 0
    (tmp_path / "x86_64.nosuch.bpf").write_bytes(b"")
    assert generator.main(["--check"]) == 1


def test_an_architecture_without_a_program_is_named() -> None:
    with pytest.raises(ValueError, match="no seccomp program for 'riscv64'; there is one for aarch64 and x86_64"):
        seccomp.program("riscv64", debug=False, set_id=False)
    with pytest.raises(ValueError, match="no seccomp program for"):
        seccomp.program("../x86_64", debug=False, set_id=False)


def test_loading_twice_reads_once() -> None:
    first, second = (seccomp.program("x86_64", debug=False, set_id=False) for _ in range(2))
    assert first is second


def test_jumps_beyond_their_byte_go_through_a_trampoline() -> None:
    filler: bpf.Code = [bpf.Insn(bpf.BPF_LD_W_ABS, 0)] * 300
    returns: bpf.Code = [
        *(bpf.Label("no"), bpf.Insn(bpf.BPF_RET_K, 2)),
        *(bpf.Label("yes"), bpf.Insn(bpf.BPF_RET_K, 1)),
    ]
    start: bpf.Code = [bpf.Insn(bpf.BPF_LD_W_ABS, 0), bpf.Insn(bpf.BPF_JMP_JEQ_K, 7, "yes", "no")]
    program = bpf.assemble([*start, *filler, *returns])
    assert len(program) // 8 == len(start) + len(filler) + 2 + 2
    assert [run(program, 0, number).value for number in (7, 8)] == [1, 2]


@pytest.mark.parametrize(
    ("rewrite", "message"),
    [
        (lambda text: text.replace("unshare setns", "unshare"), "in no group or rule: setns"),
        (lambda text: text.replace("unshare setns", "unshare setns mount"), "classified twice: mount"),
        (lambda text: text.replace("unshare setns", "unshare setns nosuch"), "not in syscalls.csv: nosuch"),
        (lambda text: text.replace("flags & CLONE_NEW", "flag & CLONE_NEW"), "cannot read the condition"),
        (lambda text: text.replace("flags & CLONE_NEW", "flags & NOSUCH"), "no constant 'NOSUCH'"),
    ],
)
def test_a_policy_with_a_hole_is_refused(
    rewrite: Callable[[str], str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("policy.toml", "syscalls.csv"):
        (tmp_path / name).write_text(rewrite((policy.HERE / name).read_text()))
    monkeypatch.setattr(policy, "HERE", tmp_path)
    with pytest.raises(policy.PolicyError, match=message):
        policy.load()

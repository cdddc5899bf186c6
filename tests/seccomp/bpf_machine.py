"""An interpreter for seccomp's BPF, written from linux/filter.h and not from the generator."""

import struct
from dataclasses import dataclass

KILL_PROCESS = 0x80000000
ALLOW = 0x7FFF0000
ERRNO = 0x00050000

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
AUDIT_ARCH_FOREIGN = {"i386": 0x40000003, "arm": 0x40000028, "riscv64": 0xC00000F3, "nothing": 0}


@dataclass(frozen=True)
class Run:
    """What a program returned, and after how many instructions."""

    value: int
    steps: int


def run(program: bytes, arch: int, nr: int, args: tuple[int, ...] = ()) -> Run:
    """`program` over one `struct seccomp_data`; fails on whatever the kernel's checker would refuse."""
    code = list(struct.iter_unpack("<HBBI", program))
    padded = [arg & (1 << 64) - 1 for arg in (*args, 0, 0, 0, 0, 0, 0)[:6]]
    data = struct.pack("<IIQ6Q", nr & 0xFFFFFFFF, arch, 0x7F0000001000, *padded)
    accumulator = at = steps = 0
    while True:
        opcode, jt, jf, k = code[at]
        at, steps = at + 1, steps + 1
        match opcode:
            case 0x20:  # BPF_LD | BPF_W | BPF_ABS
                assert k % 4 == 0, f"unaligned load at {at - 1}"
                (accumulator,) = struct.unpack_from("<I", data, k)
            case 0x54:  # BPF_ALU | BPF_AND | BPF_K
                accumulator &= k
            case 0x05:  # BPF_JMP | BPF_JA
                at += k
            case 0x15:  # BPF_JMP | BPF_JEQ | BPF_K
                at += jt if accumulator == k else jf
            case 0x35:  # BPF_JMP | BPF_JGE | BPF_K
                at += jt if accumulator >= k else jf
            case 0x45:  # BPF_JMP | BPF_JSET | BPF_K
                at += jt if accumulator & k else jf
            case 0x06:  # BPF_RET | BPF_K
                return Run(k, steps)
            case _:
                raise AssertionError(f"instruction {opcode:#x} at {at - 1}")

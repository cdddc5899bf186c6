"""Classic BPF with labels, as far as seccomp takes it: `struct sock_filter` out (linux/filter.h)."""

import struct
from dataclasses import dataclass, replace

BPF_LD_W_ABS = 0x20
BPF_ALU_AND_K = 0x54
BPF_JMP_JA = 0x05
BPF_JMP_JEQ_K = 0x15
BPF_JMP_JGE_K = 0x35
BPF_JMP_JSET_K = 0x45
BPF_RET_K = 0x06
BPF_MAXINSNS = 4096

# The offsets of a conditional jump are one byte each; JA's is 32 bits.
_REACH = 255


@dataclass(frozen=True)
class Insn:
    """One instruction; `jt` and `jf` are labels, and JA's target is `jt`."""

    code: int
    k: int = 0
    jt: str | None = None
    jf: str | None = None


@dataclass(frozen=True)
class Label:
    """A name for the instruction that follows."""

    name: str


Code = list[Insn | Label]


def assemble(code: Code) -> bytes:
    """`code` as an array of `struct sock_filter`, little-endian.

    A conditional jump that cannot reach its target goes through a JA placed right after it.
    """
    while True:
        positions = _positions(code)
        far = _first_far(code, positions)
        if far is None:
            break
        code = _bridge(code, *far)
    instructions = [item for item in code if isinstance(item, Insn)]
    if len(instructions) > BPF_MAXINSNS:
        raise ValueError(f"{len(instructions)} instructions; the kernel takes {BPF_MAXINSNS}")
    return b"".join(_encode(insn, at, positions) for at, insn in enumerate(instructions))


def _positions(code: Code) -> dict[str, int]:
    positions: dict[str, int] = {}
    at = 0
    for item in code:
        if isinstance(item, Label):
            positions[item.name] = at
        else:
            at += 1
    return positions


def _first_far(code: Code, positions: dict[str, int]) -> tuple[int, Insn, str] | None:
    """Where in `code` the first jump out of reach is, the jump, and its target."""
    at = 0
    for index, item in enumerate(code):
        if isinstance(item, Label):
            continue
        at += 1
        if item.code != BPF_JMP_JA:
            for target in (item.jt, item.jf):
                if target is not None and positions[target] - at > _REACH:
                    return index, item, target
    return None


def _bridge(code: Code, index: int, insn: Insn, target: str) -> Code:
    bridge = f"{target} from {index}"
    near = replace(
        insn,
        jt=bridge if insn.jt == target else insn.jt,
        jf=bridge if insn.jf == target else insn.jf,
    )
    return [*code[:index], near, Label(bridge), Insn(BPF_JMP_JA, jt=target), *code[index + 1 :]]


def _encode(insn: Insn, at: int, positions: dict[str, int]) -> bytes:
    def offset(label: str | None) -> int:
        distance = 0 if label is None else positions[label] - at - 1
        if distance < 0:
            raise ValueError(f"jump backwards to {label!r}")
        return distance

    if insn.code == BPF_JMP_JA:
        return struct.pack("<HBBI", insn.code, 0, 0, offset(insn.jt))
    return struct.pack("<HBBI", insn.code, offset(insn.jt), offset(insn.jf), insn.k)

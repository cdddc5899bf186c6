"""From verdicts by number to a program: a binary tree over ranges of numbers, then the argument rules."""

import errno
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate

from tools.seccomp.bpf import (
    BPF_ALU_AND_K,
    BPF_JMP_JEQ_K,
    BPF_JMP_JGE_K,
    BPF_JMP_JSET_K,
    BPF_LD_W_ABS,
    BPF_RET_K,
    Code,
    Insn,
    Label,
    assemble,
)
from tools.seccomp.policy import WORD, Judgement, Step, Test, Verdict

SECCOMP_RET_KILL_PROCESS = 0x80000000
SECCOMP_RET_ALLOW = 0x7FFF0000
SECCOMP_RET_ERRNO = 0x00050000

# struct seccomp_data
NR = 0
ARCH = 4
ARGS = 16

# More than this many calls tested one by one are slower than one more comparison of the tree.
_CHAIN = 4


@dataclass(frozen=True)
class Range:
    """Numbers from `first` up to the next range's, with one verdict."""

    first: int
    size: int
    verdict: Verdict
    weight: int


@dataclass(frozen=True)
class Node:
    """`nr >= k` (or `nr == k`) chooses `yes`, else `no`."""

    code: int
    k: int
    yes: "Tree"
    no: "Tree"


Tree = Node | Verdict


def compile_program(audit: int, verdicts: Mapping[int, Verdict], weights: Mapping[int, int]) -> bytes:
    """The program for one architecture: `audit` is its AUDIT_ARCH, a number not in `verdicts` is ENOSYS."""
    program = _Program()
    program.code += [
        Insn(BPF_LD_W_ABS, ARCH),
        Insn(BPF_JMP_JEQ_K, audit, "native", "foreign"),
        Label("foreign"),
        Insn(BPF_RET_K, SECCOMP_RET_KILL_PROCESS),
        Label("native"),
        Insn(BPF_LD_W_ABS, NR),
    ]
    program.add_tree(plan_tree(split_ranges(verdicts, weights)))
    program.add_returns()
    for judgement, label in program.judgements.items():
        program.add_judgement(judgement, label)
    program.add_returns()
    return assemble(program.code)


def return_value(action: str) -> int:
    """What the filter returns for ALLOW or an errno's name."""
    return SECCOMP_RET_ALLOW if action == "ALLOW" else SECCOMP_RET_ERRNO | int(getattr(errno, action))


def split_ranges(verdicts: Mapping[int, Verdict], weights: Mapping[int, int]) -> list[Range]:
    """All numbers from 0 in order, neighbours of one verdict merged; the last range has no end."""
    ranges: list[Range] = []
    for number in range(max(verdicts) + 2):
        verdict = verdicts.get(number, "ENOSYS")
        weight = weights.get(number, 0)
        if ranges and ranges[-1].verdict == verdict:
            last = ranges.pop()
            ranges.append(Range(last.first, last.size + 1, verdict, last.weight + weight))
        else:
            ranges.append(Range(number, 1, verdict, 1 + weight))
    last = ranges.pop()
    return [*ranges, replace(last, size=WORD - last.first + 1)]


def plan_tree(ranges: list[Range]) -> Tree:
    """The tree with the least weighted path, by dynamic programming over all ways to split."""
    sums = [0, *accumulate(r.weight for r in ranges)]

    @cache
    def best(low: int, high: int) -> tuple[int, Tree]:
        if high - low == 1:
            return 0, ranges[low].verdict
        split = min(range(low + 1, high), key=lambda at: best(low, at)[0] + best(at, high)[0])
        left, right = best(low, split), best(split, high)
        cost = sums[high] - sums[low] + left[0] + right[0]
        chain = _chain(ranges[low:high])
        if chain is not None and chain[0] <= cost:
            return chain
        return cost, Node(BPF_JMP_JGE_K, ranges[split].first, right[1], left[1])

    return best(0, len(ranges))[1]


def _chain(ranges: list[Range]) -> tuple[int, Tree] | None:
    """Single numbers tested one by one, the heaviest first, where all else between them has one verdict."""
    rest = {r.verdict for r in ranges if r.size > 1} or {ranges[0].verdict}
    singles = [r for r in ranges if r.verdict not in rest]
    if len(rest) > 1 or len(singles) > _CHAIN:
        return None
    tree: Tree = rest.pop()
    cost, left = 0, sum(r.weight for r in ranges)
    singles.sort(key=lambda r: (-r.weight, r.first))
    for single in singles:
        cost += left
        left -= single.weight
    for single in reversed(singles):
        tree = Node(BPF_JMP_JEQ_K, single.first, single.verdict, tree)
    return cost, tree


Loaded = tuple[int, int] | None
"""What the accumulator holds: an argument and the mask it was cut with, or something else."""


class _Program:
    """Code under construction. A jump goes forwards only, so each part of the code has returns of its own after it."""

    def __init__(self) -> None:
        self.code: Code = []
        self.judgements: dict[Judgement, str] = {}
        self._returns: dict[str, str] = {}
        self._labels = 0

    def add_tree(self, tree: Tree, label: str | None = None) -> None:
        """Comparisons of the number in the accumulator; the side that a comparison fails to follows it at once."""
        if not isinstance(tree, Node):
            return
        yes, no = self._target(tree.yes), self._target(tree.no)
        self.code += [] if label is None else [Label(label)]
        self.code.append(Insn(tree.code, tree.k, yes, no))
        self.add_tree(tree.no, no)
        self.add_tree(tree.yes, yes)

    def add_judgement(self, judgement: Judgement, label: str) -> None:
        """The steps of one rule; each that does not hold leads to the next, the last to ALLOW."""
        arrivals: set[Loaded] = {None}
        for step in judgement:
            self.code.append(Label(label))
            label = self._return("ALLOW") if step is judgement[-1] else self._new_label()
            arrivals = self._add_step(step, arrivals, label)

    def add_returns(self) -> None:
        """The returns that the code since the last call jumps to."""
        for action, label in sorted(self._returns.items()):
            self.code += [Label(label), Insn(BPF_RET_K, return_value(action))]
        self._returns.clear()

    def _add_step(self, step: Step, arrivals: set[Loaded], failed: str) -> set[Loaded]:
        """The step's tests; what the accumulator can hold where one of them failed."""
        if not step.tests:
            self.code.append(Insn(BPF_RET_K, return_value(step.action)))
        loaded = arrivals.pop() if len(arrivals) == 1 else None
        left: set[Loaded] = set()
        for test in step.tests:
            loaded = self._add_load(test, loaded)
            left.add(loaded)
            if test is step.tests[-1]:
                self._add_test(test, self._return(step.action), failed)
            else:
                passed = self._new_label()
                self._add_test(test, passed, failed)
                self.code.append(Label(passed))
        return left

    def _add_load(self, test: Test, loaded: Loaded) -> Loaded:
        wanted = (test.argument, WORD if _is_bit_test(test) else test.mask)
        if loaded == wanted:
            return wanted
        if loaded != (test.argument, WORD):
            self.code.append(Insn(BPF_LD_W_ABS, ARGS + 8 * test.argument))
        if wanted[1] != WORD:
            self.code.append(Insn(BPF_ALU_AND_K, wanted[1]))
        return wanted

    def _add_test(self, test: Test, passed: str, failed: str) -> None:
        if _is_bit_test(test):
            self.code.append(Insn(BPF_JMP_JSET_K, test.mask, passed, failed))
            return
        equal, different = (failed, passed) if test.negated else (passed, failed)
        for value in test.values[:-1]:
            following = self._new_label()
            self.code += [Insn(BPF_JMP_JEQ_K, value, equal, following), Label(following)]
        self.code.append(Insn(BPF_JMP_JEQ_K, test.values[-1], equal, different))

    def _target(self, tree: Tree) -> str:
        if isinstance(tree, Node):
            return self._new_label()
        if isinstance(tree, str):
            return self._return(tree)
        return self.judgements.setdefault(tree, self._new_label())

    def _return(self, action: str) -> str:
        return self._returns.setdefault(action, self._new_label())

    def _new_label(self) -> str:
        self._labels += 1
        return str(self._labels)


def _is_bit_test(test: Test) -> bool:
    return test.negated and test.values == (0,) and test.mask != WORD

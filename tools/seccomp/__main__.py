"""Write the shipped programs and the table of verdicts, or compare them: `python -m tools.seccomp [--check]`."""

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from tools.seccomp.compiler import compile_program
from tools.seccomp.policy import Policy, Verdict, load

SHIPPED = Path(__file__).parents[2] / "src/alcove/local/seccomp"


def generate(policy: Policy) -> dict[str, bytes]:
    """Every shipped file by name."""
    files = {"verdicts.json": _verdicts(policy)}
    for arch, switches in itertools.product(policy.numbers, _variants(policy)):
        numbers = policy.numbers[arch]
        calls = policy.classify(switches)
        files[f"{arch}.{variant_name(policy, switches)}.bpf"] = compile_program(
            policy.audit[arch],
            {number: calls[name].verdict for name, number in numbers.items()},
            {numbers[name]: weight for name, weight in policy.weights.items() if name in numbers},
        )
    return files


def variant_name(policy: Policy, switches: frozenset[str]) -> str:
    """The switches that are on, in the policy's order; "default" without any."""
    return ".".join(switch for switch in policy.switches if switch in switches) or "default"


def _variants(policy: Policy) -> Iterator[frozenset[str]]:
    for count in range(len(policy.switches) + 1):
        for switches in itertools.combinations(policy.switches, count):
            yield frozenset(switches)


def _verdicts(policy: Policy) -> bytes:
    """One line for each call: its numbers, its place in the policy, its verdict by variant where they differ."""
    variants = {variant_name(policy, switches): policy.classify(switches) for switches in _variants(policy)}
    lines = []
    for name, call in variants["default"].items():
        entry: dict[str, object] = {
            "place": call.place,
            "numbers": {arch: numbers[name] for arch, numbers in policy.numbers.items() if name in numbers},
            "verdict": _word(call.verdict),
        }
        others = {variant: _word(calls[name].verdict) for variant, calls in variants.items()}
        differing = {variant: word for variant, word in others.items() if word != entry["verdict"]}
        lines.append(f"{json.dumps(name)}: {json.dumps(entry | differing)}")
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _word(verdict: Verdict) -> str:
    return verdict if isinstance(verdict, str) else "BY_ARGUMENT"


def main(arguments: list[str]) -> int:
    files = generate(load())
    if arguments == ["--check"]:
        differing = [name for name, content in files.items() if _read(SHIPPED / name) != content]
        differing += [path.name for path in SHIPPED.glob("*.bpf") if path.name not in files]
        for name in differing:
            sys.stderr.write(f"{SHIPPED / name} is not what the policy says: run python -m tools.seccomp\n")
        return 1 if differing else 0
    for name, content in files.items():
        (SHIPPED / name).write_bytes(content)
    return 0


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

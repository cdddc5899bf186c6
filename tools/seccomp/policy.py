"""The policy as values: policy.toml and syscalls.csv, read and checked."""

import csv
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
WORD = 0xFFFF_FFFF

_SIGNATURE = re.compile(r"(\w+)\(([\w, ]+)\)")
_CONDITION = re.compile(r"(?P<name>\w+)(?P<mask>(?: & ~?\w+)*)(?: (?P<op>==|!=|in|not in) (?P<values>\w+(?: \w+)*))?")


class PolicyError(Exception):
    """The policy is not a policy: a name unknown, missing, or there twice."""


@dataclass(frozen=True)
class Test:
    """`argument & mask` is one of `values`; the other way round if `negated`. On the low 32 bits."""

    argument: int
    mask: int
    values: tuple[int, ...]
    negated: bool


@dataclass(frozen=True)
class Step:
    """If every test holds, this action."""

    tests: tuple[Test, ...]
    action: str


Judgement = tuple[Step, ...]
"""The first step that holds decides; after the last one, ALLOW."""

Verdict = str | Judgement
"""An action (ALLOW or an errno's name), or steps that look at arguments."""


@dataclass(frozen=True)
class Classified:
    """One call in one variant: where the policy puts it, and what it answers."""

    place: str
    verdict: Verdict


class Policy:
    """policy.toml with syscalls.csv."""

    def __init__(self, document: Mapping[str, object], numbers: Mapping[str, Mapping[str, int]]) -> None:
        self.numbers = numbers
        self.audit = {arch: _integer(_table(v)["audit"]) for arch, v in _table(document["architecture"]).items()}
        self.switches = tuple(_table(document["switch"]))
        self.weights = {name: _integer(v) for name, v in _table(document["weight"]).items()}
        self._constants = {name: _integer(v) for name, v in _table(document["constant"]).items()}
        self._groups = _tables(document["group"])
        self._rules = _tables(document["rule"])
        self._check()

    def classify(self, switches: frozenset[str]) -> dict[str, Classified]:
        """Every known call by name, with these switches on."""
        calls = {name: Classified(place, verdict) for place, name, verdict in self._placed(switches)}
        return dict(sorted(calls.items()))

    def _placed(self, switches: frozenset[str]) -> Iterator[tuple[str, str, Verdict]]:
        for group in self._groups:
            action = _text(group["action"]) if _active(group, switches) else "ALLOW"
            for name in _text(group["calls"]).split():
                yield _text(group["name"]), name, action
        for rule in self._rules:
            for signature in _strings(rule["calls"]):
                name, arguments = _parse_signature(signature)
                steps = tuple(
                    Step(tuple(self._parse_test(c, arguments) for c in _strings(step["when"])), _text(step["then"]))
                    for step in _tables(rule["steps"])
                    if _active(step, switches)
                )
                yield _text(rule["name"]), name, steps or "ALLOW"

    def _parse_test(self, condition: str, arguments: tuple[str, ...]) -> Test:
        match = _CONDITION.fullmatch(condition)
        if match is None or match["name"] not in arguments:
            raise PolicyError(f"cannot read the condition {condition!r} over {arguments}")
        mask = WORD
        for term in match["mask"].split(" & ")[1:]:
            mask &= ~self._value(term[1:]) if term.startswith("~") else self._value(term)
        argument = arguments.index(match["name"])
        if match["op"] is None:
            return Test(argument, mask & WORD, (0,), negated=True)
        values = tuple(self._value(v) for v in match["values"].split())
        return Test(argument, mask & WORD, values, negated=match["op"] in ("!=", "not in"))

    def _value(self, name: str) -> int:
        if name not in self._constants:
            raise PolicyError(f"no constant {name!r}")
        return self._constants[name]

    def _check(self) -> None:
        placed = [name for _, name, _ in self._placed(frozenset())]
        known = set().union(*self.numbers.values())
        for what, names in (
            ("classified twice", {name for name in placed if placed.count(name) > 1}),
            ("in no group or rule", known - set(placed)),
            ("not in syscalls.csv", (set(placed) | set(self.weights)) - known),
        ):
            if names:
                raise PolicyError(f"{what}: {' '.join(sorted(names))}")


def load() -> Policy:
    """The committed policy.

    Raises:
        PolicyError: a call is classified twice or not at all, or a name is unknown.
    """
    return Policy(tomllib.loads((HERE / "policy.toml").read_text()), _read_numbers(HERE / "syscalls.csv"))


def _read_numbers(path: Path) -> dict[str, dict[str, int]]:
    numbers: dict[str, dict[str, int]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(line for line in file if not line.startswith("#")):
            name = row.pop("name")
            for arch, number in row.items():
                if number:
                    numbers.setdefault(arch, {})[name] = int(number)
    return numbers


def _parse_signature(signature: str) -> tuple[str, tuple[str, ...]]:
    match = _SIGNATURE.fullmatch(signature)
    if match is None:
        raise PolicyError(f"cannot read the call {signature!r}")
    return match[1], tuple(match[2].split(", "))


def _active(entry: Mapping[str, object], switches: frozenset[str]) -> bool:
    return entry.get("unless") not in switches and ("only" not in entry or entry["only"] in switches)


def _table(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise PolicyError(f"not a table: {value!r}")
    return value


def _tables(value: object) -> list[dict[str, object]]:
    if not isinstance(value, list):
        raise PolicyError(f"not a list: {value!r}")
    return [_table(entry) for entry in value]


def _strings(value: object) -> list[str]:
    if not isinstance(value, list):
        raise PolicyError(f"not a list: {value!r}")
    return [_text(entry) for entry in value]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise PolicyError(f"not a string: {value!r}")
    return value


def _integer(value: object) -> int:
    if not isinstance(value, int):
        raise PolicyError(f"not an integer: {value!r}")
    return value

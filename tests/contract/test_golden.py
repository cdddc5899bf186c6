"""The wire, byte for byte: every type and variant, with and without extensions."""

import json
from pathlib import Path
from typing import Any

import pytest

from alcove import from_json, to_json
from alcove.contract import from_builtins, to_builtins
from tests.contract.values import GOLDEN

DIRECTORY = Path(__file__).parent.parent / "golden"


def golden(name: str) -> bytes:
    return (DIRECTORY / f"{name}.json").read_bytes()


def test_every_file_has_its_value() -> None:
    assert sorted(path.stem for path in DIRECTORY.iterdir()) == sorted(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_value_is_written_as_its_file(name: str) -> None:
    _, value = GOLDEN[name]
    assert to_json(value) == golden(name)


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("strict", [False, True])
def test_a_file_is_read_as_its_value(name: str, strict: bool) -> None:
    kind, value = GOLDEN[name]
    read = from_json(golden(name), kind, strict=strict)
    assert read == value
    assert type(read) is type(value)
    assert to_json(read) == golden(name)


@pytest.mark.parametrize("name", GOLDEN)
def test_white_space_and_key_order_do_not_matter(name: str) -> None:
    kind, value = GOLDEN[name]
    loose = json.dumps(_reversed(json.loads(golden(name))), indent=2, ensure_ascii=True)
    assert from_json(f"\n{loose}\r\n", kind, strict=True) == value


@pytest.mark.parametrize("name", GOLDEN)
def test_builtins_are_what_the_json_says(name: str) -> None:
    kind, value = GOLDEN[name]
    assert to_builtins(value) == json.loads(golden(name))
    assert from_builtins(json.loads(golden(name)), kind, strict=True) == value


def test_the_spec_of_the_issue_is_the_rust_wire() -> None:
    """One line in full, so that a change of field order shows in a diff of code and not only of data."""
    assert golden("spec_default") == (
        b'{"session_id":null,"labels":{},"network_policy":{"mode":"unrestricted"},"mounts":[],"limits":'
        b'{"wall_time":null,"cpu_count":null,"memory_mb":null,"idle_timeout":null}}'
    )


def _reversed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _reversed(value[key]) for key in reversed(value)}
    return [_reversed(item) for item in value] if isinstance(value, list) else value

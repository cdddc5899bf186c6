"""Reading and writing: what is accepted, what is refused, and that every refusal is ours."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from alcove import (
    Duration,
    ExecRequest,
    ExecResult,
    FilesystemMount,
    JsonError,
    Limited,
    NetworkPolicy,
    ResourceLimits,
    SandboxSession,
    SandboxSessionId,
    SandboxSpec,
    SandboxState,
    Unrestricted,
    from_json,
    to_json,
)
from tests.contract.test_golden import golden
from tests.contract.values import GOLDEN, TYPES, anything, typed_values

#: Contract fields that may be absent when reading; every other one of the contract's is required.
OPTIONAL = {
    "session_id",
    "wall_time",
    "cpu_count",
    "memory_mb",
    "idle_timeout",
    "host_path",
    "cwd",
    "stdin",
    "timeout",
}


def read(data: bytes | str, kind: Any, *, strict: bool = False) -> object:
    """Read, where any outcome but a value or our error is a failure of the test."""
    try:
        return from_json(data, kind, strict=strict)
    except JsonError as error:
        return error


def objects(value: Any) -> list[dict[str, Any]]:
    """Return every object of fields in parsed JSON, maps of strings left out."""
    if isinstance(value, list):
        return [found for item in value for found in objects(item)]
    if not isinstance(value, dict):
        return []
    inner = [
        found for key, item in value.items() if key not in {"labels", "metadata", "env"} for found in objects(item)
    ]
    return [value, *inner]


@given(typed_values)
def test_what_was_written_is_read_as_the_same(case: tuple[Any, object]) -> None:
    kind, value = case
    data = to_json(value)
    assert from_json(data, kind, strict=True) == value
    assert from_json(data.decode(), kind) == value
    assert from_json(memoryview(data), kind) == value
    assert to_json(from_json(data, kind)) == data


@given(typed_values)
def test_what_is_written_is_compact_json_with_sorted_maps(case: tuple[Any, object]) -> None:
    data = to_json(case[1])
    parsed = json.loads(data)
    assert json.dumps(parsed, separators=(",", ":"), ensure_ascii=False).encode() == data
    for entry in objects(parsed):
        for name in {"labels", "metadata", "env"} & entry.keys():
            assert list(entry[name]) == sorted(entry[name], key=str.encode)


@given(st.sampled_from(TYPES), st.binary(max_size=60), st.booleans())
@example(Duration, b"\xef\xbb\xbf{}", True)
def test_garbage_bytes(kind: Any, data: bytes, strict: bool) -> None:
    read(data, kind, strict=strict)


@given(st.sampled_from(TYPES), st.text(st.characters(), max_size=40))
@example(SandboxSessionId, '"\ud800"')
def test_garbage_text(kind: Any, data: str) -> None:
    read(data, kind)


@given(st.sampled_from(TYPES), anything, st.booleans())
def test_json_of_any_shape(kind: Any, value: object, strict: bool) -> None:
    read(json.dumps(value), kind, strict=strict)


@given(st.sampled_from(sorted(GOLDEN)), st.data())
def test_one_field_replaced_by_anything(name: str, data: st.DataObject) -> None:
    parsed = json.loads(golden(name))
    places = [(entry, key) for entry in objects(parsed) for key in entry]
    if places:
        entry, key = data.draw(st.sampled_from(places))
        entry[key] = data.draw(anything)
    got = read(json.dumps(parsed), GOLDEN[name][0])
    if not isinstance(got, JsonError):
        to_json(got)


@given(st.sampled_from(sorted(GOLDEN)), st.data())
def test_bytes_cut_changed_or_added(name: str, data: st.DataObject) -> None:
    whole = golden(name)
    at = data.draw(st.integers(0, len(whole)))
    drop = data.draw(st.integers(0, 3))
    read(whole[:at] + data.draw(st.binary(max_size=3)) + whole[at + drop :], GOLDEN[name][0])


@pytest.mark.parametrize("name", GOLDEN)
def test_a_prefix_is_never_a_value(name: str) -> None:
    whole = golden(name)
    for end in range(len(whole)):
        assert isinstance(read(whole[:end], GOLDEN[name][0]), JsonError)


@pytest.mark.parametrize("name", GOLDEN)
def test_unknown_fields_are_ignored_or_refused_at_every_depth(name: str) -> None:
    kind, value = GOLDEN[name]
    count = len(objects(json.loads(golden(name))))
    for index in range(count):
        parsed = json.loads(golden(name))
        entry = objects(parsed)[index]
        entry["added_later"] = {"deep": [1.5, None]}
        text = json.dumps(parsed)
        if set(entry) == {"secs", "nanos", "added_later"}:
            assert isinstance(read(text, kind), JsonError)
        else:
            assert from_json(text, kind) == value
        with pytest.raises(JsonError, match="unknown field `added_later`"):
            from_json(text, kind, strict=True)


@pytest.mark.parametrize("name", GOLDEN)
def test_only_optional_and_extension_fields_may_be_absent(name: str) -> None:
    kind, _ = GOLDEN[name]
    for index, entry in enumerate(objects(json.loads(golden(name)))):
        for key in entry:
            parsed = json.loads(golden(name))
            del objects(parsed)[index][key]
            got = read(json.dumps(parsed), kind)
            required = key in required_of(entry)
            assert isinstance(got, JsonError) is required, (key, got)
            if required:
                assert f"missing field `{key}`" in str(got)


def required_of(entry: dict[str, Any]) -> set[str]:
    fields = next(fields for fields in CONTRACT_FIELDS.values() if set(fields) <= entry.keys())
    return set(fields) - (OPTIONAL if "snapshot_id" not in fields else set())


#: The contract's own fields, in wire order, as the Rust structs declare them.
CONTRACT_FIELDS = {
    "duration": ["secs", "nanos"],
    "policy_limited": ["mode", "allowed_hosts"],
    "policy_unrestricted": ["mode"],
    "mount": ["source", "target", "access"],
    "limits": ["wall_time", "cpu_count", "memory_mb", "idle_timeout"],
    "spec": ["session_id", "labels", "network_policy", "mounts", "limits"],
    "resolved_mount": ["target", "access", "host_path"],
    "session": ["id", "backend", "state", "mounts", "metadata"],
    "exec_request": ["command", "args", "cwd", "env", "stdin", "timeout"],
    "exec_result": ["stdout", "stderr", "exit_code", "timed_out"],
    "snapshot": ["session_id", "backend", "snapshot_id", "metadata"],
    "capabilities_all": ["local_process_sandbox", "network_policy", "snapshot", "resume", "suspend_on_idle"],
}


@pytest.mark.parametrize("name", CONTRACT_FIELDS)
def test_a_value_without_extensions_has_the_contracts_fields_in_order(name: str) -> None:
    assert list(json.loads(golden(name))) == CONTRACT_FIELDS[name]


@pytest.mark.parametrize(
    "name", [name for name in GOLDEN if name.endswith("_extended") and f"{name[:-9]}_default" in GOLDEN]
)
def test_an_extended_value_begins_with_the_contracts_fields(name: str) -> None:
    contract = list(json.loads(golden(f"{name[:-9]}_default")))
    assert list(json.loads(golden(name)))[: len(contract)] == contract


@pytest.mark.parametrize(
    ("data", "kind", "detail"),
    [
        (b"", Duration, "Expecting value"),
        (b'"a" "b"', SandboxSessionId, "Extra data"),
        (b"\xff", Duration, "utf-8"),
        (b'"\xed\xa0\x80"', SandboxSessionId, "utf-8"),
        (rb'"\ud800"', SandboxSessionId, ""),
        (rb'"\uD800\u0041"', SandboxSessionId, ""),
        (rb'"\udc00"', SandboxSessionId, "surrogate"),
        (b'"a\nb"', SandboxSessionId, "control character"),
        (b"[" * 1_000_000, SandboxSpec, "nested too deep"),
        (b'{"a":' * 1_000_000, SandboxSpec, "nested too deep"),
        (b'{"secs":1,"nanos":0,"secs":1}', Duration, "duplicate key `secs`"),
        (b'{"secs":1,"n\\u0061nos":0,"nanos":0}', Duration, "duplicate key `nanos`"),
        (b'{"secs":NaN,"nanos":0}', Duration, "`NaN` is not JSON"),
        (b'{"secs":-Infinity,"nanos":0}', Duration, "`-Infinity` is not JSON"),
        (b'{"secs":1e999,"nanos":0}', Duration, "number out of range"),
        (b'{"secs":1.0,"nanos":0}', Duration, "Expected `int`, got `float`"),
        (b'{"secs":1e0,"nanos":0}', Duration, "Expected `int`, got `float`"),
        (b'{"secs":true,"nanos":0}', Duration, "Expected `int`, got `bool`"),
        (b'{"secs":"1","nanos":0}', Duration, "Expected `int`, got `str`"),
        (b'{"secs":-1,"nanos":0}', Duration, "from 0 to 18446744073709551615"),
        (b'{"secs":18446744073709551616,"nanos":0}', Duration, "from 0 to 18446744073709551615"),
        (b'{"secs":0,"nanos":4294967296}', Duration, "from 0 to 4294967295"),
        (b'{"secs":18446744073709551615,"nanos":1000000000}', Duration, "overflows"),
        (b'{"secs":' + b"9" * 5000 + b',"nanos":0}', Duration, "4300 digits"),
        (b'{"secs":' + b"9" * 4000 + b',"nanos":0}', Duration, "an integer of 13288 bits"),
        (b'{"secs":01,"nanos":0}', Duration, "Expecting"),
        (b'{"secs":1,"nanos":0,}', Duration, "line 1 column"),
        (b"[1,0]", Duration, "Expected `object`, got `array`"),
        (b"null", NetworkPolicy, "Expected `object`, got `null`"),
        (b"{}", NetworkPolicy, "missing field `mode`"),
        (b'{"mode":"open"}', NetworkPolicy, "Invalid value 'open'"),
        (b'{"mode":null}', NetworkPolicy, "Expected `str`"),
        (b'{"mode":["limited"]}', NetworkPolicy, "Expected `str`"),
        (b'{"mode":"limited"}', NetworkPolicy, "missing field `allowed_hosts`"),
        (b'{"mode":"limited","allowed_hosts":null}', NetworkPolicy, "Expected `array`, got `null`"),
        (b'{"mode":"limited","allowed_hosts":"a"}', NetworkPolicy, "Expected `array`, got `str`"),
        (b'{"mode":"limited","allowed_hosts":[1]}', NetworkPolicy, "Expected `str`, got `int`"),
        (b'{"mode":"unrestricted"}', Limited, ""),
        (b'{"allowed_hosts":[]}', Limited, "missing field `mode`"),
        (b'""', SandboxSessionId, "session id cannot be empty"),
        (b'"\\u2003"', SandboxSessionId, "session id cannot be empty"),
        (b"7", SandboxSessionId, "Expected `str`, got `int`"),
        (b'"Running"', SandboxState, "Invalid enum value 'Running'"),
        (b"1", int, "`int` is not a type of the contract"),
    ],
)
def test_refused(data: bytes, kind: Any, detail: str) -> None:
    with pytest.raises(JsonError) as caught:
        from_json(data, kind)
    assert caught.value.code == "json"
    assert detail in caught.value.detail


@pytest.mark.parametrize(
    ("field", "value", "detail"),
    [
        ("cpu_count", 2**32, "cpu_count must be from 0 to 4294967295, got 4294967296"),
        ("memory_mb", -1, "memory_mb must be from 0 to 4294967295, got -1"),
        ("cpu_count", 1.0, "Expected `int | null`, got `float` - at `$.limits.cpu_count`"),
        ("memory_mb", True, "Expected `int | null`, got `bool` - at `$.limits.memory_mb`"),
        ("wall_time", 5, "Expected `object | null`, got `int` - at `$.limits.wall_time`"),
        ("wall_time", {"secs": 1}, "missing field `nanos` - at `$.limits.wall_time`"),
    ],
)
def test_limits_refused_by_name(field: str, value: object, detail: str) -> None:
    parsed = json.loads(golden("spec"))
    parsed["limits"][field] = value
    with pytest.raises(JsonError) as caught:
        from_json(json.dumps(parsed), SandboxSpec)
    assert caught.value.detail == detail


@pytest.mark.parametrize("code", [-(2**31) - 1, 2**31])
def test_an_exit_code_is_an_i32(code: int) -> None:
    with pytest.raises(JsonError, match="exit_code must be from -2147483648 to 2147483647"):
        from_json(golden("exec_result").replace(b":3,", b":%d," % code), ExecResult)


def test_duplicate_keys_are_refused_at_every_depth() -> None:
    assert b'"zone":"eu"' in golden("spec")
    with pytest.raises(JsonError, match="duplicate key `zone`"):
        from_json(golden("spec").replace(b'"zone":"eu"', b'"zone":"eu","zone":"us"'), SandboxSpec)
    with pytest.raises(JsonError, match="duplicate key `x`"):
        from_json(golden("spec")[:-1] + b',"unknown":[{"x":1,"x":2}]}', SandboxSpec)


def test_what_a_backend_refuses_is_still_read() -> None:
    limits = from_json(golden("limits").replace(b'"cpu_count":2', b'"cpu_count":0'), ResourceLimits)
    assert limits.cpu_count == 0
    assert from_json(b'{"secs":1,"nanos":4294967295}', Duration) == Duration(5, 294_967_295)


def test_a_surrogate_pair_is_one_character() -> None:
    assert from_json(rb'"\ud83d\uDE00 \\ud800"', SandboxSessionId) == "\U0001f600 \\ud800"


def test_one_variant_is_read_by_its_own_type() -> None:
    assert from_json(golden("policy_limited_to_nothing"), Limited) == Limited()
    assert from_json(b'{"mode":"unrestricted","allowed_hosts":[]}', NetworkPolicy) == Unrestricted()
    with pytest.raises(JsonError, match="unknown field `allowed_hosts`"):
        from_json(b'{"mode":"unrestricted","allowed_hosts":[]}', NetworkPolicy, strict=True)


@pytest.mark.parametrize("value", [None, 5, "text", {"mode": "unrestricted"}, [], object(), SandboxSpec])
def test_what_is_not_of_the_contract_is_not_written(value: object) -> None:
    with pytest.raises(JsonError, match="is not a type of the contract"):
        to_json(value)


@pytest.mark.parametrize(
    "value",
    [
        ExecRequest("\ud800"),
        ExecRequest("a", ["\udcff"]),
        ExecRequest("a", env={"K": "\udcff"}),
        SandboxSpec(labels={"\ud800": "a"}),
        SandboxSessionId("\udfff"),
        SandboxSession("a", "\ud800", SandboxState.RUNNING),
        FilesystemMount("/\udcff", "/a"),
    ],
)
def test_a_lone_surrogate_is_not_written(value: object) -> None:
    with pytest.raises(JsonError):
        to_json(value)


def test_an_extension_set_to_its_default_is_not_written() -> None:
    host = str(b"host", "ascii")  # equal to the default, and not the same object
    assert to_json(SandboxSpec(rootfs=host, labels=dict[str, str]())) == golden("spec_default")
    assert to_json(SandboxSession("a", "fake", SandboxState.TERMINATED, labels={})) == golden("session_bare")
    big = int("1000") - 1000
    assert to_json(ExecResult(stdout_omitted=big)) == golden("exec_result_default")

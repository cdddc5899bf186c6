"""Constructors: defaults, what they take, what they refuse, and that a value never changes."""

import copy
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alcove import (
    MEMORY_MOUNT,
    OUTPUTS_MOUNT,
    Duration,
    ExecRequest,
    ExecResult,
    FilesystemAccess,
    FilesystemMount,
    InvalidRequest,
    JsonError,
    Limited,
    ResolvedMount,
    ResourceLimits,
    SandboxCapabilities,
    SandboxSession,
    SandboxSessionId,
    SandboxSnapshot,
    SandboxSpec,
    SandboxState,
    Unrestricted,
    to_json,
)
from tests.contract.values import GOLDEN

STRUCTS: list[Any] = [
    Duration,
    ExecRequest,
    ExecResult,
    FilesystemMount,
    Limited,
    ResolvedMount,
    ResourceLimits,
    SandboxCapabilities,
    SandboxSession,
    SandboxSnapshot,
    SandboxSpec,
    Unrestricted,
]


def untyped(kind: Any) -> Any:
    """Call a constructor as code without a type checker would."""
    return kind


def test_mount_points() -> None:
    assert (MEMORY_MOUNT, OUTPUTS_MOUNT) == ("/mnt/memory", "/mnt/session/outputs")


def test_defaults() -> None:
    spec = SandboxSpec()
    assert spec.session_id is None
    assert (spec.labels, spec.network_policy, spec.mounts) == ({}, Unrestricted(), ())
    assert (spec.limits, spec.rootfs) == (ResourceLimits(), "host")
    assert Limited().allowed_hosts == ()
    assert FilesystemMount("", "/a").access is FilesystemAccess.READ_ONLY
    assert (ExecRequest("a").args, ExecRequest("a").env) == ((), {})
    assert SandboxCapabilities() == SandboxCapabilities(False, False, False, False, False)


@pytest.mark.parametrize(
    ("result", "success"),
    [
        (ExecResult(), True),
        (ExecResult(exit_code=1), False),
        (ExecResult(exit_code=-1, timed_out=True), False),
        (ExecResult(timed_out=True), False),
    ],
)
def test_success(result: ExecResult, success: bool) -> None:
    assert result.success is success


@pytest.mark.parametrize(
    ("seconds", "duration"),
    [
        (0, Duration(0)),
        (5, Duration(5)),
        (2.5, Duration(2, 500_000_000)),
        (0.1, Duration(0, 100_000_000)),
        (2.3, Duration(2, 300_000_000)),
        (0.9999999999, Duration(1)),
        (1e-9, Duration(0, 1)),
        (-0.0, Duration(0)),
        (2**64 - 1, Duration(2**64 - 1)),
        (Duration(7, 7), Duration(7, 7)),
    ],
)
def test_durations_are_taken_as_numbers(seconds: float | Duration, duration: Duration) -> None:
    assert ResourceLimits(wall_time=seconds, idle_timeout=seconds) == ResourceLimits(duration, None, None, duration)
    assert ExecRequest("a", timeout=seconds).timeout == duration
    assert Duration.of(seconds) == duration


@pytest.mark.parametrize(
    "seconds",
    [-1, -0.001, float("nan"), float("inf"), -float("inf"), 2**64, 2.0**64, 1e300, pytest.param(10**5000, id="huge")],
)
def test_a_duration_out_of_range_is_invalid(seconds: float) -> None:
    for make in (
        lambda: ResourceLimits(wall_time=seconds),
        lambda: ResourceLimits(idle_timeout=seconds),
        lambda: ExecRequest("a", timeout=seconds),
        lambda: Duration.of(seconds),
        lambda: untyped(Duration)(seconds),
    ):
        with pytest.raises(InvalidRequest):
            make()


@pytest.mark.parametrize("seconds", ["5", True, b"5", [5], {"secs": 5, "nanos": 0}, 1j])
def test_what_is_no_number_is_no_duration(seconds: object) -> None:
    with pytest.raises(InvalidRequest, match="timeout must be a number of seconds"):
        untyped(ExecRequest)("a", timeout=seconds)


def test_nanos_carry() -> None:
    assert Duration(1, 2_500_000_000) == Duration(3, 500_000_000)
    assert (Duration(3, 500_000_000).secs, Duration(3, 500_000_000).nanos) == (3, 500_000_000)
    assert Duration(2, 250_000_000).seconds == 2.25
    assert Duration(1, 999_999_999) < Duration(2) <= Duration(1, 1_000_000_000)


@pytest.mark.parametrize(
    "parts", [(2**64,), (-1,), (0, -1), (0, 2**32), (2**64 - 1, 10**9), (1.5,), (True,), ("1",), (0, 0.5)]
)
def test_a_malformed_duration_is_invalid(parts: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidRequest):
        Duration(*parts)


@pytest.mark.parametrize("blank", ["", " ", "\t\r\n", "\u00a0\u2003\u3000"])
def test_a_blank_session_id_is_invalid(blank: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        SandboxSessionId(blank)
    assert str(caught.value) == "sandbox request was invalid: session id cannot be empty"
    with pytest.raises(InvalidRequest):
        SandboxSpec(blank)


def test_a_session_id_is_a_string() -> None:
    session_id = SandboxSessionId("a")
    assert session_id == "a"
    assert {"a": 1}[session_id] == 1
    assert str(session_id) == f"{session_id}" == "a"
    assert type(SandboxSpec("a").session_id) is SandboxSessionId
    assert SandboxSessionId("\x1f") == "\x1f"  # no White_Space to Unicode, though str.strip takes it


@pytest.mark.parametrize(
    ("make", "detail"),
    [
        (lambda: ResourceLimits(cpu_count=2**32), "cpu_count must be from 0 to 4294967295, got 4294967296"),
        (lambda: ResourceLimits(memory_mb=-1), "memory_mb must be from 0 to 4294967295, got -1"),
        (lambda: untyped(ResourceLimits)(cpu_count=1.0), "cpu_count must be a whole number, got 1.0"),
        (lambda: untyped(ResourceLimits)(cpu_count=True), "cpu_count must be a whole number, got True"),
        (
            lambda: ResourceLimits(memory_mb=10**5000),
            "memory_mb must be from 0 to 4294967295, got an integer of 16610 bits",
        ),
        (lambda: ExecResult(exit_code=2**31), "exit_code must be from -2147483648 to 2147483647, got 2147483648"),
        (lambda: ExecResult(signal=0), "signal must be from 1 to 2147483647, got 0"),
        (
            lambda: ExecResult(stdout_omitted=2**64),
            "stdout_omitted must be from 0 to 18446744073709551615, got 18446744073709551616",
        ),
        (lambda: untyped(ExecRequest)(5), "command must be a string, got 5"),
        (lambda: untyped(ExecRequest)("a", "bc"), "args must be a list, got 'bc'"),
        (lambda: untyped(ExecRequest)("a", {"b": "c"}), "args must be a list, got {'b': 'c'}"),
        (lambda: untyped(ExecRequest)("a", ["b", 3]), "args[1] must be of type str, got 3"),
        (lambda: untyped(ExecRequest)("a", env={"A": 1}), "env must map strings to strings, got 'A': 1"),
        (lambda: untyped(ExecRequest)("a", env=[("A", "1")]), "env must be a mapping, got [('A', '1')]"),
        (lambda: untyped(ExecRequest)("a", raw=1), "raw must be true or false, got 1"),
        (lambda: untyped(SandboxSpec)(mounts=["/a"]), "mounts[0] must be of type FilesystemMount, got '/a'"),
        (
            lambda: untyped(SandboxSpec)(network_policy="limited"),
            "network_policy must be Unrestricted or Limited, got 'limited'",
        ),
        (lambda: untyped(SandboxSpec)(network_policy=None), "network_policy must be Unrestricted or Limited, got None"),
        (lambda: untyped(SandboxSpec)(limits={}), "limits must be ResourceLimits, got {}"),
        (lambda: untyped(SandboxSpec)(session_id=5), "session id must be a string, got 5"),
        (
            lambda: untyped(FilesystemMount)("", "/a", "rw"),
            "mount access must be one of read_only, read_write, got 'rw'",
        ),
        (lambda: untyped(Limited)("example.com"), "allowed_hosts must be a list, got 'example.com'"),
    ],
)
def test_a_malformed_field_is_named(make: Any, detail: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make()
    assert caught.value.detail == detail


def test_a_wrong_value_is_shown_shortly() -> None:
    with pytest.raises(InvalidRequest) as caught:
        untyped(ExecRequest)(["x" * 1000])
    assert len(caught.value.detail) < 120
    with pytest.raises(InvalidRequest, match="got a value of type list"):
        untyped(ExecRequest)([10**5000])


odd = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(2**100, 2**200).map(lambda number: number**100),
        st.floats(),
        st.text(st.characters(), max_size=5),
        st.binary(max_size=5),
        st.sampled_from([Duration(1), Unrestricted(), FilesystemAccess.READ_ONLY, SandboxState.RUNNING, object, ...]),
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(st.sampled_from(STRUCTS), st.data())
def test_odd_arguments_make_a_value_or_are_invalid(kind: Any, data: st.DataObject) -> None:
    count = len(kind.__struct_fields__)
    required = count - len(kind.__struct_defaults__)
    arguments = data.draw(st.lists(odd, min_size=required, max_size=count))
    try:
        value = kind(*arguments)
    except InvalidRequest:
        return
    with suppress(JsonError):  # a lone surrogate in a text
        to_json(value)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_value_is_frozen(name: str) -> None:
    value: Any = GOLDEN[name][1]
    if not isinstance(value, msgspec.Struct):
        return
    for field in value.__struct_fields__:
        with pytest.raises(AttributeError):
            setattr(value, field, None)
    hash(value)


def test_what_a_value_holds_is_frozen() -> None:
    given_labels, given_args = {"a": "1"}, ["b"]
    spec, request = SandboxSpec(labels=given_labels), ExecRequest("a", given_args)
    given_labels["a"] = "2"
    given_args.append("c")
    assert (spec.labels, request.args) == ({"a": "1"}, ("b",))
    labels: Any = spec.labels
    for change, *arguments in (
        (labels.update, {"a": "3"}),
        (labels.__setitem__, "a", "3"),
        (labels.__delitem__, "a"),
        (labels.__ior__, {"a": "3"}),
        (labels.pop, "a"),
        (labels.popitem,),
        (labels.setdefault, "b", "3"),
        (labels.clear,),
    ):
        with pytest.raises(TypeError, match="frozen"):
            change(*arguments)
    assert spec.labels == {"a": "1"}
    assert dict(spec.labels, b="4") == {"a": "1", "b": "4"}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_value_pickles_and_copies(name: str) -> None:
    value = GOLDEN[name][1]
    for other in (pickle.loads(pickle.dumps(value)), copy.copy(value), copy.deepcopy(value)):
        assert other == value
        assert type(other) is type(value)
        assert hash(other) == hash(value)
        assert to_json(other) == to_json(value)


def test_a_changed_copy_is_checked() -> None:
    request = msgspec.structs.replace(ExecRequest("a", ["b"]), timeout=1.5)
    assert request == ExecRequest("a", ["b"], timeout=1.5)
    with pytest.raises(InvalidRequest):
        msgspec.structs.replace(request, timeout=-1)


def test_a_path_is_a_mount_source() -> None:
    assert FilesystemMount(Path("/srv/data"), "/data") == FilesystemMount("/srv/data", "/data")
    with pytest.raises(InvalidRequest):
        untyped(FilesystemMount)(b"/srv", "/data")


def test_enums_are_taken_by_their_wire_names() -> None:
    assert untyped(FilesystemMount)("", "/a", "read_write").access is FilesystemAccess.READ_WRITE
    assert untyped(SandboxSession)("a", "b", "running").state is SandboxState.RUNNING

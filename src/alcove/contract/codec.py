"""Contract values as JSON and back, byte for byte as serde writes them; every failure is a `JsonError`.

Writing is msgspec's encoder over the values themselves. Reading parses once with the standard library's C scanner,
which alone tells us of a key given twice (msgspec keeps the last one in silence), then checks which fields are there,
then lets msgspec convert and the constructors check. That costs about three times msgspec's own decoder on a small
value, some microseconds, and is one parse: no second reading can see another value than the first.
"""

from collections.abc import Iterator
from functools import cache
from types import UnionType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, get_args, get_origin, overload

import msgspec
from msgspec import NODEFAULT, Struct
from msgspec.structs import FieldInfo
from msgspec.structs import fields as struct_fields

from alcove.contract.errors import DetailedError, JsonError
from alcove.contract.fields import absent
from alcove.contract.types import (
    Duration,
    ExecRequest,
    ExecResult,
    FilesystemAccess,
    FilesystemMount,
    Limited,
    NetworkPolicy,
    ResolvedMount,
    ResourceLimits,
    SandboxCapabilities,
    SandboxSession,
    SandboxSessionId,
    SandboxSnapshot,
    SandboxSpec,
    SandboxState,
    Unrestricted,
)

if TYPE_CHECKING:
    from json import JSONDecoder

_Value = TypeVar("_Value")

_CONTRACT = (
    Duration,
    ExecRequest,
    ExecResult,
    FilesystemAccess,
    FilesystemMount,
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
)
_READABLE = frozenset((*_CONTRACT, NetworkPolicy))


def to_json(value: object) -> bytes:
    """Return the JSON of a contract value: fields in contract order, maps sorted by key, extensions only where set.

    Raises:
        JsonError: `value` is not of the contract, or holds a string that UTF-8 cannot carry.
    """
    _require_contract_value(value)
    try:
        return _ENCODER.encode(value)
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        raise JsonError(str(error)) from error


def to_builtins(value: object) -> Any:
    """Return what `to_json` would write, as dicts, lists, strings, numbers, booleans and None.

    Raises:
        JsonError: as `to_json` does.
    """
    return msgspec.json.decode(to_json(value))


@overload
def from_json(data: bytes | bytearray | memoryview | str, type: type[_Value], strict: bool = False) -> _Value: ...


@overload
def from_json(
    data: bytes | bytearray | memoryview | str, type: UnionType, strict: bool = False
) -> Unrestricted | Limited: ...


def from_json(data: bytes | bytearray | memoryview | str, type: Any, strict: bool = False) -> Any:  # noqa: A002
    """Return the value of the contract type `type` that `data` is; `strict` refuses unknown fields at every depth.

    Raises:
        JsonError: `data` is not JSON, or no value of that type.
    """
    return from_builtins(_parse(data), type, strict)


@overload
def from_builtins(obj: object, type: type[_Value], strict: bool = False) -> _Value: ...


@overload
def from_builtins(obj: object, type: UnionType, strict: bool = False) -> Unrestricted | Limited: ...


def from_builtins(obj: object, type: Any, strict: bool = False) -> Any:  # noqa: A002
    """Return the value of the contract type `type` that parsed JSON is; for wire formats that embed contract values.

    Raises:
        JsonError: `obj` is no value of that type.
    """
    if type not in _READABLE:
        raise JsonError(f"`{getattr(type, '__name__', type)}` is not a type of the contract")
    try:
        if type is NetworkPolicy or issubclass(type, Struct):
            _check_presence(obj, _POLICIES if type is NetworkPolicy else (type,), strict=strict, path="$")
        return msgspec.convert(obj, type, dec_hook=_decode_id)
    except JsonError:
        raise
    except DetailedError as error:
        raise JsonError(error.detail) from error
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise JsonError(str(error)) from error


def _require_contract_value(value: object) -> None:
    if not isinstance(value, _CONTRACT):
        raise JsonError(f"`{type(value).__name__}` is not a type of the contract")


def _encode_id(value: object) -> str:
    if isinstance(value, SandboxSessionId):
        return str(value)
    raise TypeError(f"`{type(value).__name__}` is not a type of the contract")


def _decode_id(kind: type, value: object) -> object:
    if kind is not SandboxSessionId or not isinstance(value, str):
        raise TypeError(f"Expected `str`, got `{type(value).__name__}`")
    return SandboxSessionId(value)


_ENCODER = msgspec.json.Encoder(order="deterministic", enc_hook=_encode_id)


# Parsing: bytes to builtins


def _parse(data: bytes | bytearray | memoryview | str) -> object:
    try:
        text = _text(data)
        parsed: object = _decoder().decode(text)
        # The scanner takes a lone \udXXX escape, msgspec does not; texts with such an escape are rare and parsed twice.
        if "\\ud" in text or "\\uD" in text:
            msgspec.json.decode(text)
    except JsonError:
        raise
    except RecursionError:
        raise JsonError("nested too deep") from None
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        raise JsonError(str(error)) from error
    return parsed


def _text(data: bytes | bytearray | memoryview | str) -> str:
    if isinstance(data, str):
        data.encode()  # a lone surrogate is no character
        return data
    return str(data, "utf-8")


@cache
def _decoder() -> "JSONDecoder":
    from json import JSONDecoder  # 1 ms that a process which only writes JSON need not pay

    return JSONDecoder(object_pairs_hook=_members, parse_constant=_refuse_constant, parse_float=_finite)


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise JsonError(f"duplicate key `{twice}`")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise JsonError(f"`{name}` is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in {float("inf"), float("-inf")}:
        raise JsonError("number out of range")
    return number


# Presence: which fields must be there, and with `strict` which may


class _Shape(Struct, frozen=True):
    known: frozenset[str]
    required: tuple[str, ...]
    nested: tuple[tuple[str, tuple[type[Struct], ...], bool], ...]


_POLICIES: tuple[type[Struct], ...] = (Unrestricted, Limited)


def _check_presence(obj: object, kinds: tuple[type[Struct], ...], *, strict: bool, path: str) -> None:
    if not isinstance(obj, dict):
        return  # msgspec says what was expected
    shape = _shape(_policy_kind(obj) if kinds is _POLICIES else kinds[0])
    for name in shape.required:
        if name not in obj:
            raise JsonError(f"missing field `{name}` - at `{path}`")
    if strict:
        for name in obj:
            if name not in shape.known:
                raise JsonError(f"unknown field `{name}` - at `{path}`")
    for name, inner, many in shape.nested:
        value = obj.get(name)
        for where, entry in _entries(value) if many else (("", value),):
            _check_presence(entry, inner, strict=strict, path=f"{path}.{name}{where}")


def _policy_kind(obj: dict[str, object]) -> type[Struct]:
    mode = obj.get("mode")
    # a mode of no variant is msgspec's to refuse, once the check for a missing one is through
    return Limited if mode == "limited" else Unrestricted


def _entries(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, list):
        for index, entry in enumerate(value):
            yield f"[{index}]", entry


@cache
def _shape(kind: type[Struct]) -> _Shape:
    infos = struct_fields(kind)
    tag = kind.__struct_config__.tag_field
    tags = () if tag is None else (tag,)
    return _Shape(
        known=frozenset((*(info.name for info in infos), *tags)),
        required=(*tags, *(info.name for info in infos if _is_required(info))),
        nested=tuple((info.name, *found) for info in infos if (found := _structs_in(info.type))[0]),
    )


def _is_required(info: FieldInfo) -> bool:
    return info.default is NODEFAULT and info.default_factory is not absent


def _structs_in(annotation: Any) -> tuple[tuple[type[Struct], ...], bool]:
    many = get_origin(annotation) is tuple
    parts = get_args(annotation) or (annotation,)
    structs = tuple(part for part in parts if isinstance(part, type) and issubclass(part, Struct))
    return (_POLICIES if structs == _POLICIES else structs), many

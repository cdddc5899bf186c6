"""What a field of a contract value may hold: each check returns the frozen form, or raises `InvalidRequest` by name."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, NoReturn, TypeVar

from alcove.contract.errors import InvalidRequest

U32_MAX = 2**32 - 1
U64_MAX = 2**64 - 1
I32_MIN, I32_MAX = -(2**31), 2**31 - 1

# What Rust's `trim` strips: the Unicode property White_Space. Python's bare `strip` also takes U+001C..U+001F.
WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"

_Member = TypeVar("_Member", bound=StrEnum)
_Item = TypeVar("_Item")


class FrozenMap(dict[str, str]):
    """A map of strings that equals the plain `dict`, has a hash, and refuses to change."""

    __slots__ = ()

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[type["FrozenMap"], tuple[dict[str, str]]]:
        return FrozenMap, (dict(self),)

    if not TYPE_CHECKING:

        def _refuse(self, *_args: object, **_kwargs: object) -> NoReturn:
            raise TypeError("contract values are frozen: build another from dict(this)")

        __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse


EMPTY_MAP = FrozenMap()


def absent() -> None:
    """Mark an optional contract field: written as null, and the only kind that may be absent when reading."""


def none_listed() -> tuple[()]:
    """Be the default of a list that is always written: msgspec leaves out one whose factory is `tuple` itself."""
    return ()


def shown(value: object) -> str:
    """Return `value` for a message: never long, and never itself an error (the repr of a huge int is one)."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    try:
        text = repr(value)
    except ValueError:
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def text(value: object, name: str) -> str:
    """Return `value`, which must be a string."""
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} must be a string, got {shown(value)}")
    return value


def optional_text(value: object, name: str) -> str | None:
    """Return `value`, which must be a string or None."""
    return None if value is None else text(value, name)


def flag(value: object, name: str) -> bool:
    """Return `value`, which must be True or False."""
    if not isinstance(value, bool):
        raise InvalidRequest(f"{name} must be true or false, got {shown(value)}")
    return value


def whole(value: object, name: str, low: int, high: int) -> int:
    """Return `value`, which must be an integer (not a bool) from `low` to `high`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidRequest(f"{name} must be a whole number, got {shown(value)}")
    if not low <= value <= high:
        raise InvalidRequest(f"{name} must be from {low} to {high}, got {shown(value)}")
    return int(value)


def optional_u32(value: object, name: str) -> int | None:
    """Return `value`, which must be a u32 or None."""
    return None if value is None else whole(value, name, 0, U32_MAX)


def optional_u64(value: object, name: str) -> int | None:
    """Return `value`, which must be a u64 or None."""
    return None if value is None else whole(value, name, 0, U64_MAX)


def instance(value: object, name: str, kinds: tuple[type, ...]) -> None:
    """Refuse a `value` of none of the `kinds`."""
    if not isinstance(value, kinds):
        choices = " or ".join(kind.__name__ for kind in kinds)
        raise InvalidRequest(f"{name} must be {choices}, got {shown(value)}")


def member(value: object, name: str, kind: type[_Member]) -> _Member:
    """Return the member of `kind` that `value` is or spells."""
    try:
        return kind(text(value, name))
    except ValueError:
        choices = ", ".join(kind)
        raise InvalidRequest(f"{name} must be one of {choices}, got {shown(value)}") from None


def items(value: object, name: str, kind: type[_Item]) -> tuple[_Item, ...]:
    """Return the elements of `value` as a tuple; each must be a `kind`, and a lone string is not a list."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise InvalidRequest(f"{name} must be a list, got {shown(value)}")
    frozen = tuple(value)
    for index, item in enumerate(frozen):
        if not isinstance(item, kind):
            raise InvalidRequest(f"{name}[{index}] must be of type {kind.__name__}, got {shown(item)}")
    return frozen


def text_map(value: object, name: str) -> FrozenMap:
    """Return `value`, a mapping of strings to strings, frozen."""
    if type(value) is FrozenMap:
        return value
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{name} must be a mapping, got {shown(value)}")
    for key, entry in value.items():
        if not isinstance(key, str) or not isinstance(entry, str):
            raise InvalidRequest(f"{name} must map strings to strings, got {shown(key)}: {shown(entry)}")
    return FrozenMap(value)

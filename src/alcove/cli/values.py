"""Texts of the command line as values; the only place that reads or writes `512M`. A reader raises `ValueError`."""

import os
import re

from alcove.contract import FilesystemAccess, FilesystemMount

_MOUNT = "write it as SRC:DST, or with :ro, :rw or :cow after it, for example ./data:/workspace/data:ro"
_ACCESS = {"ro": FilesystemAccess.READ_ONLY, "rw": FilesystemAccess.READ_WRITE, "cow": FilesystemAccess.READ_ONLY}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGT])(?:i?B)?", re.ASCII | re.IGNORECASE)
_SHIFTS = {"K": 10, "M": 20, "G": 30, "T": 40}
_LARGER = 1000  # so that no number has four digits
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ms|s|m|h|d|)", re.ASCII)
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def size(text: str) -> int:
    """Return the bytes of `512M` or `1.5G`; units are powers of 1024, and one must be there."""
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError("write it with its unit, for example 512M or 2G")
    count = float(match[1]) * (1 << _SHIFTS[match[2].upper()])
    if not count.is_integer() or count == 0:
        raise ValueError("that is no whole number of bytes, or none")
    return int(count)


def shown_size(count: int) -> str:
    """Return bytes as people write them: `1.5M`."""
    size, unit = float(count), "B"
    for larger in _SHIFTS:
        if size < _LARGER:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f}{unit}" if unit == "B" or size >= 10 else f"{size:.1f}{unit}"


def mebibytes(text: str) -> int:
    """Return a size in MiB."""
    count, rest = divmod(size(text), 1 << 20)
    if rest or not count:
        raise ValueError("it is given in whole MiB, for example 512M")
    return count


def seconds(text: str) -> float:
    """Return the seconds of `10`, `1.5s`, `500ms`, `2m`, `1h`."""
    match = _DURATION.fullmatch(text)
    if not match:
        raise ValueError("write it as 10, 1.5s, 500ms, 2m or 1h")
    return float(match[1]) * _SECONDS[match[2]]


def compression(text: str) -> str:
    """Read how to compress."""
    if text not in {"zstd", "gzip", "none"}:
        raise ValueError("it is zstd, gzip or none")
    return text


def count(text: str) -> int:
    """Return a whole number of at least 1."""
    if not text.isascii() or not text.isdecimal() or not int(text):
        raise ValueError("write a whole number, at least 1")
    return int(text)


def variable(text: str) -> tuple[str, str]:
    """Return the name and value of `NAME=VALUE`, or of our own variable `NAME`."""
    name, equals, value = text.partition("=")
    if not _KEY.fullmatch(name):
        raise ValueError("write it as NAME=VALUE, or NAME to pass on a variable of yours")
    if equals:
        return name, value
    if name not in os.environ:
        raise ValueError("it is not set here; give it a value: NAME=VALUE")
    return name, os.environ[name]


def words(text: str) -> list[str]:
    """Return the words of `pip,npm`."""
    found = text.split(",")
    if not all(found):
        raise ValueError("write them with a comma between, for example pip,npm")
    return found


def label(text: str) -> tuple[str, str]:
    """Return key and value of `KEY=VALUE`."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ValueError("write it as KEY=VALUE")
    return key, value


def mount(text: str) -> FilesystemMount:
    """Return the mount of `SRC:DST[:ro|rw|cow]`; SRC is relative to our own directory, or empty for a fresh one."""
    places, _, access = text.rpartition(":")
    if access not in _ACCESS:
        places, access = text, "ro"
    source, colon, target = places.rpartition(":")
    if not colon or not target.startswith("/"):
        raise ValueError(_MOUNT)
    if source:
        source = os.path.abspath(os.path.expanduser(source))
    return FilesystemMount(source, target, _ACCESS[access], copy_on_write=access == "cow")

"""The configuration file: what an administrator decides for everybody here, and a user for themselves.

/etc/alcove/config.toml is for all users; over it, key by key and preset by preset, goes the user's own file.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from alcove.contract import InvalidRequest
from alcove.egress.config import EgressConfig

#: For all users of this machine.
MACHINE = "/etc/alcove/config.toml"

_TABLES = ("egress",)
_SETTINGS = ("allow_addresses", "resolvers", "hosts", "fake_range")
_KEYS = (*_SETTINGS, "presets")


def read() -> dict[str, Any]:
    """Return what the files say, as fields of `LocalSandboxConfig`; nothing where there is no file.

    Raises:
        InvalidRequest: a file is not what it should be, others could change it, or the one that is named is not there.
    """
    settings: dict[str, Any] = {}
    presets: dict[str, tuple[str, ...]] = {}
    for path, text in _files():
        egress = _egress(path, text)
        presets |= egress.pop("presets", {})
        settings |= egress
    fields: dict[str, Any] = {}
    if settings:
        fields["egress"] = EgressConfig(**settings)
    if presets:
        fields["presets"] = presets
    return fields


def own() -> str:
    """The path of the user's own file: `ALCOVE_CONFIG`, else in the XDG configuration directory."""
    if named := os.environ.get("ALCOVE_CONFIG"):
        return named
    directory = os.environ.get("XDG_CONFIG_HOME", "")
    if not directory.startswith("/"):  # the specification: a relative one is to be ignored
        directory = os.path.expanduser("~/.config")
    return f"{directory}/alcove/config.toml"


def _files() -> Iterator[tuple[str, bytes]]:
    named = bool(os.environ.get("ALCOVE_CONFIG"))
    for path, absent in (
        (MACHINE, (FileNotFoundError, NotADirectoryError)),
        # PermissionError: HOME is another user's, and so is what would lie there
        (own(), () if named else (FileNotFoundError, NotADirectoryError, PermissionError)),
    ):
        try:
            yield path, _contents(path)
        except absent:
            continue
        except OSError as error:
            raise InvalidRequest(f"cannot read the configuration {path}: {error.strerror}") from None


def _contents(path: str) -> bytes:
    with open(path, "rb") as file:
        found = os.fstat(file.fileno())
        if stat.S_ISREG(found.st_mode):  # what is a pipe or /dev/null was given by the caller
            _check_owner(path, found)
        return file.read()


def _check_owner(path: str, found: os.stat_result) -> None:
    """What a guest may reach is nobody else's to decide; ssh(1) asks the same of its own file."""
    if found.st_uid not in {0, os.geteuid()}:
        raise InvalidRequest(
            f"the configuration {path} belongs to uid {found.st_uid}, neither you nor root: "
            "name one of yours by ALCOVE_CONFIG, or none by ALCOVE_CONFIG=/dev/null"
        )
    if found.st_mode & 0o022:
        raise InvalidRequest(f"the configuration {path} can be written by others: chmod go-w {path}")


def _egress(path: str, text: bytes) -> dict[str, Any]:
    import tomllib  # several milliseconds: only for those who have a file

    try:
        content = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} is no TOML: {error}") from None
    try:
        return _checked(content)
    except InvalidRequest as bad:
        raise InvalidRequest(f"{path}: {bad.detail}") from None


def _checked(content: Mapping[str, Any]) -> dict[str, Any]:
    _known(content, _TABLES, "")
    egress = _table(content.get("egress", {}), "egress")
    _known(egress, _KEYS, "egress.")
    found = dict(egress)
    for name in ("allow_addresses", "resolvers"):
        if name in found:
            found[name] = _texts(found[name], f"egress.{name}")
    if not isinstance(found.get("fake_range", ""), str):
        raise InvalidRequest('egress.fake_range must be a text: write it as "198.18.0.0/15"')
    for name in ("hosts", "presets"):
        if name in found:
            table = _table(found[name], f"egress.{name}")
            found[name] = {key: _texts(value, f"egress.{name}.{key}") for key, value in table.items()}
    EgressConfig(**{name: value for name, value in found.items() if name in _SETTINGS}).check()
    check_presets(found.get("presets", {}))
    return found


def check_presets(presets: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse names that no `@name` could mean, and presets within presets.

    Raises:
        InvalidRequest: there is one.
    """
    for name, entries in presets.items():
        if not name or not all(char.isascii() and (char.isalnum() or char in "-_") for char in name):
            raise InvalidRequest(f"egress.presets.{name}: a name has letters, digits, `-` and `_` only")
        if inner := next((entry for entry in entries if entry.startswith("@")), None):
            raise InvalidRequest(f"egress.presets.{name} has `{inner}`: write the entries of that preset themselves")


def _known(table: Mapping[str, Any], keys: Iterable[str], prefix: str) -> None:
    names = list(keys)
    for key in table:
        if key not in names:
            raise InvalidRequest(f"there is no `{prefix}{key}`{nearest(key, names, prefix)}")


def nearest(name: str, names: Iterable[str], prefix: str = "") -> str:
    """Return what to say after `name` when it is not one of `names`."""
    from difflib import get_close_matches

    known = list(names)
    if close := get_close_matches(name, known, n=1):
        return f" (did you mean `{prefix}{close[0]}`?)"
    shown = ", ".join(f"`{prefix}{each}`" for each in known)
    return f"; there is {shown}" if known else ""


def _table(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name} must be a table: write [{name}]")
    return value


def _texts(value: object, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise InvalidRequest(f'{name} must be a list of texts: write ["…", "…"]')
    return tuple(value)

"""What a caller may decide about the local backend, as a frozen value."""

from collections.abc import Iterable, Iterator, Mapping
from os import PathLike, fspath
from typing import Any, Self

from msgspec import Struct
from msgspec.structs import force_setattr

from alcove.contract import InvalidRequest
from alcove.egress.config import EgressConfig

#: Processes of a session that asked for no number of its own.
DEFAULT_PIDS = 1024
#: Descriptors of a process of such a session.
DEFAULT_OPEN_FILES = 4096
#: Bytes kept of each output stream.
DEFAULT_OUTPUT_LIMIT = 8 << 20

ROOTFS_WAYS = ("shared", "owned")


class LocalSandboxConfig(Struct, frozen=True, kw_only=True):
    """Configuration of `LocalSandbox`.

    `root_dir` is the store (default: `ALCOVE_HOME`, else /var/lib/alcove for root, the XDG data directory for others).
    `memory_dir` backs /mnt/memory of every session. `rootfs` is how the host's root file system appears: `shared`
    (read-only toolchain) or `owned` (root only, for throw-away machines: the guest's root owns a copy-on-write view).
    `visible` are further host paths to show read-only, `hidden` are paths to leave out. `allow_root_owned` permits
    read-write attachments of directories that belong to root. `default_*` hold where a spec says nothing.
    `disk_reserve_mb` is how much of the store's file system stays free of new sessions and copies, in MiB (default: a
    twentieth of it, 1024 at most).
    `native` is another launcher than the installed one. `egress` is how allow-lists are enforced; `presets` are names
    for some entries of one, each to be written as `@name`.

    Raises:
        InvalidRequest: a path is not absolute, or a value is out of range.
    """

    root_dir: str | None = None
    memory_dir: str | None = None
    rootfs: str = "shared"
    visible: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    allow_root_owned: bool = False
    default_pids: int = DEFAULT_PIDS
    default_open_files: int = DEFAULT_OPEN_FILES
    default_output_limit: int = DEFAULT_OUTPUT_LIMIT
    disk_reserve_mb: int | None = None
    native: str | None = None
    egress: EgressConfig = EgressConfig()
    presets: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def __post_init__(self) -> None:
        for name in ("root_dir", "memory_dir", "native"):
            value = getattr(self, name)
            if value is not None:
                force_setattr(self, name, _absolute(value, name))
        for name in ("visible", "hidden"):
            force_setattr(self, name, tuple(_absolute(path, name) for path in getattr(self, name)))
        if self.rootfs not in ROOTFS_WAYS:
            raise InvalidRequest(f"LocalSandboxConfig.rootfs must be `shared` or `owned`, got `{self.rootfs}`")
        for name in ("default_pids", "default_open_files"):
            if getattr(self, name) < 1:
                raise InvalidRequest(f"LocalSandboxConfig.{name} must be at least 1")
        if self.disk_reserve_mb is not None and self.disk_reserve_mb < 0:
            raise InvalidRequest("LocalSandboxConfig.disk_reserve_mb must be at least 0")
        self.egress.check()
        if self.presets:
            self._read_presets()

    def _read_presets(self) -> None:
        from alcove.local.config_file import check_presets

        pairs = self.presets.items() if isinstance(self.presets, Mapping) else self.presets
        presets = {name: _listed(entries, name) for name, entries in pairs}
        check_presets(presets)
        force_setattr(self, "presets", tuple(presets.items()))

    @classmethod
    def load(cls, **fields: Any) -> Self:
        """Return the configuration of this machine's and this user's configuration files, with `fields` over it.

        Raises:
            InvalidRequest: a file is not what it should be; it is named.
        """
        from alcove.local.config_file import read

        return cls(**{**read(), **fields})

    def expanded(self, entries: Iterable[str]) -> tuple[str, ...]:
        """Return the entries of an allow-list with those of the preset in the place of each `@name`, each once.

        Raises:
            InvalidRequest: there is no such preset, or an entry of one cannot be.
        """
        if isinstance(entries, str):
            raise InvalidRequest(f'an allow-list is a list: write ["{entries}"]')
        found = (each for entry in entries for each in self._meant(entry))
        return tuple(dict.fromkeys(found))

    def _meant(self, entry: str) -> Iterator[str]:
        if not entry.startswith("@"):
            yield entry
            return
        presets = dict(self.presets)
        if entry[1:] not in presets:
            raise InvalidRequest(_no_preset(entry, presets))
        from alcove.egress.policy import Policy
        from alcove.egress.settings import fake

        for each in presets[entry[1:]]:
            try:
                Policy.parse([each], fake=fake(self.egress))
            except InvalidRequest as bad:
                raise InvalidRequest(f"preset `{entry}`: {bad.detail}") from None
            yield each


def _no_preset(entry: str, presets: Mapping[str, object]) -> str:
    from alcove.egress.names import printable
    from alcove.local.config_file import nearest, own

    hint = nearest(entry[1:], presets, "@")
    return f"there is no preset `{printable(entry)}`{hint}; presets stand in {own()} under [egress.presets]"


def _listed(entries: object, name: str) -> tuple[str, ...]:
    if isinstance(entries, str) or not isinstance(entries, Iterable):
        raise InvalidRequest(f"LocalSandboxConfig.presets: `{name}` must be a list of entries")
    return tuple(entries)


def _absolute(value: str | PathLike[str], name: str) -> str:
    path = fspath(value)
    if not path.startswith("/") or "\0" in path:
        raise InvalidRequest(f"LocalSandboxConfig.{name} must be an absolute path, got `{path}`")
    return path.rstrip("/") or "/"

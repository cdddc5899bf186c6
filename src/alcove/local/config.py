"""What a caller may decide about the local backend, as a frozen value."""

from os import PathLike, fspath

from msgspec import Struct
from msgspec.structs import force_setattr

from alcove.contract import InvalidRequest

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
    `native` is another launcher than the installed one.

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
    native: str | None = None

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


def _absolute(value: str | PathLike[str], name: str) -> str:
    path = fspath(value)
    if not path.startswith("/") or "\0" in path:
        raise InvalidRequest(f"LocalSandboxConfig.{name} must be an absolute path, got `{path}`")
    return path.rstrip("/") or "/"

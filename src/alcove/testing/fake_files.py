"""The files of a fake session: a tree in memory that knows which of its parts are read-only."""

from posixpath import dirname, join, normpath

from alcove.contract.types import OUTPUTS_MOUNT, FilesystemAccess

START_DIRECTORY = "/workspace"
_DIRECTORIES = ("/", "/mnt", "/mnt/session", "/tmp", START_DIRECTORY)


class FakeFileError(Exception):
    """What a command would say of a file, in the words of strerror(3)."""


class FakeFiles:
    """Directories and files by absolute path; a mount is a directory with an access."""

    def __init__(self) -> None:
        self.directories = set(_DIRECTORIES)
        self.files: dict[str, bytes] = {}
        self._mounts: dict[str, FilesystemAccess] = {}

    def kept(self) -> "FakeFiles":
        """Return what a snapshot has of these: everything but what lies in mounts, outputs excepted."""
        kept = FakeFiles()
        kept.directories |= {path for path in self.directories if not self._is_mounted(path)}
        kept.files = {path: content for path, content in self.files.items() if not self._is_mounted(path)}
        return kept

    def _is_mounted(self, path: str) -> bool:
        target = self._over(path)
        return target is not None and target != OUTPUTS_MOUNT

    def mount(self, target: str, access: FilesystemAccess) -> None:
        """Make `target` a directory under `access`, with its parents."""
        self._mounts[target] = access
        while target not in self.directories:
            self.directories.add(target)
            target = dirname(target)

    def read(self, path: str) -> bytes:
        """Return the content of a file."""
        if path in self.directories:
            raise FakeFileError("Is a directory")
        if path not in self.files:
            raise FakeFileError("No such file or directory")
        return self.files[path]

    def write(self, path: str, content: bytes) -> None:
        """Make or replace a file."""
        if path in self.directories:
            raise FakeFileError("Is a directory")
        self._check_parent(path)
        self.files[path] = content

    def remove(self, path: str) -> None:
        """Remove a file."""
        self.read(path)
        self._check_parent(path)
        del self.files[path]

    def make_directory(self, path: str) -> None:
        """Make a directory in one that is there."""
        if path in self.directories or path in self.files:
            raise FakeFileError("File exists")
        self._check_parent(path)
        self.directories.add(path)

    def _check_parent(self, path: str) -> None:
        parent = dirname(path)
        if parent not in self.directories:
            raise FakeFileError("Not a directory" if parent in self.files else "No such file or directory")
        if self._access(path) is FilesystemAccess.READ_ONLY:
            raise FakeFileError("Read-only file system")

    def _access(self, path: str) -> FilesystemAccess:
        target = self._over(path)
        return FilesystemAccess.READ_WRITE if target is None else self._mounts[target]

    def _over(self, path: str) -> str | None:
        """Return the target of the mount that a path lies in."""
        over = [target for target in self._mounts if path == target or path.startswith(f"{target}/")]
        return max(over, key=len, default=None)


def resolved(path: str, cwd: str) -> str:
    """Return the absolute path that `path` means in `cwd`; there are no links in a fake."""
    return normpath(join(cwd, path)).replace("//", "/")

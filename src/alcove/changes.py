"""What a session changed of a host directory that it has by copy-on-write, and what came of applying it: values."""

from typing import Literal

from msgspec import Struct


class Change(Struct, frozen=True):
    """One path that is not what the host has; paths are relative to the directory that is mounted at `target`.

    `type` is that of what is there now, or was: `file`, `directory`, `symlink`, `fifo`, `socket`, `device`. `mode` is
    the permissions now, `old_mode` those on the host, None where nothing is. A renamed file was `old_path`. `patch` is
    the change as a unified diff, where it was asked for. What is no UTF-8 is `surrogateescape`, as in `os.fsdecode`.
    """

    target: str
    kind: Literal["added", "modified", "deleted", "renamed"]
    path: str
    type: str
    old_path: str | None = None
    mode: int | None = None
    old_mode: int | None = None
    binary: bool = False
    patch: str | None = None


class Refusal(Struct, frozen=True):
    """A path that was not written to the host, and why."""

    target: str
    path: str
    reason: str


class Applied(Struct, frozen=True):
    """What came of applying: `conflicts` changed on the host meanwhile, `left` is not for the host or not writable."""

    applied: tuple[Change, ...] = ()
    conflicts: tuple[Refusal, ...] = ()
    left: tuple[Refusal, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether everything that was to be written is."""
        return not self.conflicts and not self.left

"""What the tests must notice when it is missing on the Python side: one function for each policy taken away."""

from collections.abc import Callable, Iterable
from typing import Any

from alcove.local import seccomp
from alcove.local.cell import landlock, plan, rootfs
from alcove.local.cell.operations import Kind, Tree, operation
from alcove.state import applying
from alcove.state.fingerprints import Fingerprints


def _without(unwanted: int) -> None:
    """Build root file systems that lack every operation of a kind."""

    def operation_or_nothing(kind: int, *arguments: Any, **fields: Any) -> bytes:
        return b"" if kind == unwanted else operation(kind, *arguments, **fields)

    setattr(rootfs, "operation", operation_or_nothing)  # noqa: B010 - a type checker sees a constant


def no_masks() -> None:
    _without(Kind.MASK)


def writable_sysctls() -> None:
    _without(Kind.READONLY)


def unsealed_root() -> None:
    _without(Kind.SEAL)


def host_root_mapped() -> None:
    real = plan._namespaces

    def namespaces(*arguments: Any, **fields: Any) -> Iterable[bytes]:
        header = tuple(kind.to_bytes(4, "little") for kind in (Kind.MAP_UID, Kind.MAP_GID))
        for encoded in real(*arguments, **fields):
            if not encoded.startswith(header):
                yield encoded
        yield operation(Kind.MAP_UID, n0=0, n1=0, v0=1)
        yield operation(Kind.MAP_GID, n0=0, n1=0, v0=1)

    setattr(plan, "_namespaces", namespaces)  # noqa: B010


def set_id_allowed() -> None:
    real = seccomp.program

    def program(arch: str, *, debug: bool, set_id: bool) -> bytes:
        return real(arch, debug=debug, set_id=set_id or True)

    setattr(seccomp, "program", program)  # noqa: B010


def every_capability() -> None:
    plan.CAPABILITIES = (1 << 41) - 1


def toolchain_writable() -> None:
    rootfs._READ_ONLY = Tree.NOSUID | Tree.NODEV


def nested_user_namespaces() -> None:
    plan._USER_SYSCTLS = {}


def no_landlock_scopes() -> None:
    landlock._SCOPES_SINCE = 1 << 30


def written_through() -> None:
    """Show what is to be by copy-on-write as it is, and writable."""
    Tree.COW = Tree.RDONLY = 0


def git_trusted() -> None:
    setattr(applying, "_runs", lambda *_: False)  # noqa: B010


def host_changes_ignored() -> None:
    setattr(Fingerprints, "objection", lambda *_: None)  # noqa: B010


MUTANTS: dict[str, Callable[[], None]] = {
    mutant.__name__: mutant
    for mutant in (
        no_masks,
        writable_sysctls,
        unsealed_root,
        host_root_mapped,
        set_id_allowed,
        every_capability,
        toolchain_writable,
        nested_user_namespaces,
        no_landlock_scopes,
        written_through,
        git_trusted,
        host_changes_ignored,
    )
}


def apply(name: str) -> None:
    """Take one policy away in this process."""
    MUTANTS[name]()

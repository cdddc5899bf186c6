"""What was measured on a host, as a value: everything that a judgement may depend on, and nothing else."""

from msgspec import Struct

#: linux/capability.h
CAP_SETUID = 7
CAP_SYS_ADMIN = 21
ALL_IDS = 1 << 32


class Trial(Struct, frozen=True, kw_only=True):
    """A whole session, made and ended on the store's file system; `error` is empty when that worked."""

    error: str = ""
    isolation: str = ""
    limits: str = ""
    milliseconds: float = 0.0


class Store(Struct, frozen=True, kw_only=True):
    """The store's directory and the file system that holds it; `error` says why it cannot be opened."""

    path: str = "/var/lib/alcove"
    error: str = ""
    kind: str = "ext4"
    options: frozenset[str] = frozenset({"rw"})
    free_bytes: int = 1 << 40
    free_inodes: int = 1 << 20


class Cgroups(Struct, frozen=True, kw_only=True):
    """`controllers` maps what can be limited here to `cgroup-v1` or `cgroup-v2`; `unified` is where groups are made.

    `offered` are the controllers that the unified hierarchy has at all. `readonly`: it is mounted, read-only.
    """

    controllers: dict[str, str] = {}
    unified: str | None = None
    kill: bool = False
    offered: frozenset[str] = frozenset()
    mounted: bool = True
    readonly: bool = False


class Facts(Struct, frozen=True, kw_only=True):
    """A host, as one process sees it.

    `native` is what `alcove-warden --probe` prints: a Landlock ABI, `idmap`, and for every step of provisioning its
    errno, 0 or -1 for one that could not be tried. `ids` are how many ids this process's user namespace has. `no_disk`
    is why no session can have a disk of its own.
    """

    kernel: str
    machine: str = "x86_64"
    distribution: str = ""
    uid: int = 0
    container: str = ""
    wsl: int = 0
    gvisor: bool = False
    chrooted: bool = False
    systemd: bool = False
    launcher: str = "/usr/bin/alcove-warden"
    launcher_error: str = ""
    native: dict[str, int] = {}
    sysctls: dict[str, int] = {}
    seccomp_mode: int = 0
    capabilities: int = (1 << 41) - 1
    apparmor: str = ""
    ids: int = ALL_IDS - 1
    proc_submounts: tuple[str, ...] = ()
    store: Store = Store()
    cgroups: Cgroups = Cgroups()
    open_files: int = 1 << 20
    processes: int = 1 << 20
    default_pids: int = 1024
    default_open_files: int = 4096
    no_disk: str = ""
    trial: Trial | None = None

    def has(self, capability: int) -> bool:
        """Tell whether the process has a capability in its own user namespace."""
        return bool(self.capabilities >> capability & 1)

    @property
    def release(self) -> tuple[int, int]:
        """The kernel's version, as (6, 18)."""
        numbers = "".join(character if character.isdigit() else " " for character in self.kernel).split()
        return int(numbers[0]), int(numbers[1])

"""What each kernel version brings. The versions explain; whether a feature is there is always tried, never guessed."""

from msgspec import Struct


class Feature(Struct, frozen=True):
    """A kernel feature, the version that brought it to mainline, what a host without it lacks, its Landlock ABI."""

    name: str
    since: tuple[int, int]
    without: str
    landlock: int = 0


#: Without one of these there are no sessions.
REQUIRED = (
    Feature("fsopen, fsmount, open_tree, move_mount", (5, 2), "no session: its root file system cannot be built"),
    Feature("clone3, pidfd_open", (5, 3), "no session: its processes cannot be made or held safely"),
    Feature("openat2", (5, 6), "no session: paths could not be resolved safely against a hostile guest"),
    Feature("CLONE_INTO_CGROUP", (5, 7), "no session where cgroup v2 is in use"),
    Feature("close_range", (5, 9), "no session: descriptors could leak into it"),
    Feature("overlayfs in a user namespace", (5, 11), "no session: /etc, /opt and /var are shown through it"),
    Feature("mount_setattr", (5, 12), "no session: host directories could not be shown read-only, all the way down"),
)
#: Without one of these a session says so, or what needs it is refused.
BETTER = (
    Feature("idmapped mounts (ext4, xfs; btrfs 5.15, tmpfs 6.3)", (5, 12), "root attaches no host directories"),
    Feature("Landlock ABI 1", (5, 13), "no second fence: `isolation` has no `landlock`", 1),
    Feature("cgroup.kill", (5, 14), "killing by the pid namespace alone, which takes longer in a fork bomb"),
    Feature("Landlock ABI 2 (rename across directories)", (5, 19), "such a rename is EXDEV; `mv` copies", 2),
    Feature("Landlock ABI 3 (truncate)", (6, 2), "truncation is left to file permissions", 3),
    Feature("Landlock ABI 5 (ioctl on devices)", (6, 10), "such ioctls are left to the absence of devices", 5),
    Feature("Landlock ABI 6 (signals, abstract sockets)", (6, 12), "the network policy `unrestricted` is refused", 6),
)
#: The first version that has all that is required.
MINIMUM = max(feature.since for feature in REQUIRED)


def lost(release: tuple[int, int]) -> list[Feature]:
    """The features that a kernel of this version lacks, required ones first."""
    return [feature for feature in (*REQUIRED, *BETTER) if feature.since > release]


def version(release: tuple[int, int]) -> str:
    """`6.12`."""
    return f"{release[0]}.{release[1]}"

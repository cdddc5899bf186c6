"""From what the launcher's probe measured to findings: every step of provisioning, and why one is refused."""

import errno
from collections.abc import Iterator

from alcove.local.cell import landlock
from alcove.local.doctor.causes import cause, errno_name, newer_kernel
from alcove.local.doctor.facts import Facts
from alcove.local.doctor.kernels import BETTER, MINIMUM, version
from alcove.local.doctor.report import Finding

# id, what, the probe's steps
_REQUIRED = (
    ("kernel", "the kernel's calls", ("clone3", "pidfd", "openat2", "close_range")),
    ("user-namespace", "a user namespace with its ids", ("userns", "uid_map", "gid_map", "set_ids", "cellns")),
    ("mounts", "a root file system of its own", ("host_tree", "mountns", "tree", "root", "devpts", "pivot_root")),
    ("pid-namespace", "processes of its own", ("pidns",)),
    ("proc", "a fresh /proc", ("proc",)),
    ("network-namespace", "a network of its own", ("netns", "loopback")),
    ("other-namespaces", "IPC, host name and cgroup namespaces", ("ipcns", "utsns", "cgroupns")),
    ("seccomp", "a filter of system calls", ("no_new_privs", "seccomp")),
)


def judge_steps(facts: Facts) -> Iterator[Finding]:
    """Findings about what every session needs, then about what makes it better."""
    for number, what, steps in _REQUIRED:
        if any(facts.native.get(step, 0) >= 0 for step in steps):  # else an earlier refusal kept all of them from a try
            yield _required(facts, number, what, steps)
    yield _landlock(facts)
    yield _unrestricted(facts)
    if facts.native.get("redirect", -1) >= 0:
        yield _egress(facts)
    if facts.native.get("overlay", -1) >= 0:
        yield _overlay(facts)
    if facts.uid == 0:
        yield _idmap(facts)


def _required(facts: Facts, number: str, what: str, steps: tuple[str, ...]) -> Finding:
    failed = next((step for step in steps if facts.native.get(step, 0) > 0), None)
    if failed is not None:
        error = facts.native[failed]
        why = cause(facts, failed, error)
        return Finding(
            id=number,
            what=what,
            status="missing",
            fact=f"{failed}: {errno_name(error)}; {why.fact}",
            consequence="no session can be made",
            remedy=why.remedy,
            alternatives=why.alternatives,
        )
    return Finding(id=number, what=what, status="ok", fact=_detail(facts, number) or "made and entered")


def _detail(facts: Facts, number: str) -> str:
    if number == "kernel":
        return f"Linux {facts.kernel} ({version(MINIMUM)} is the oldest that will do)"
    if number == "user-namespace":
        return "two levels; " + ("65536 ids of its own for each session" if facts.uid == 0 else "one id, this user's")
    if number == "seccomp":
        return "installed and inherited" + ("; an outer filter holds too" if facts.seccomp_mode == 2 else "")
    return ""


def _landlock(facts: Facts) -> Finding:
    abi = facts.native.get("landlock", 0)
    refused = facts.native.get("landlock_enforce", 0)
    if abi and not refused:
        missing = [feature.name for feature in BETTER if feature.landlock > abi]
        return Finding(
            id="landlock",
            what="a second fence around files and signals",
            status="limited" if missing else "ok",
            fact=f"Landlock ABI {abi}",
            consequence=f"not fenced: {'; '.join(missing)}" if missing else "",
            remedy=newer_kernel(facts) if missing else "",
        )
    return _no_landlock(facts, refused)


def _no_landlock(facts: Facts, refused: int) -> Finding:
    if refused == errno.EOPNOTSUPP:
        fact = "Landlock is compiled in, and was left out at boot"
        remedy = (
            "sudo sed -i 's/^GRUB_CMDLINE_LINUX=\"/&lsm=landlock,lockdown,yama,integrity,apparmor /' /etc/default/grub "
            "&& sudo update-grub"
        )
    elif facts.seccomp_mode == 2:
        why = cause(facts, "landlock_enforce", refused)
        fact, remedy = f"landlock_create_ruleset: {errno_name(refused)}; {why.fact}", why.remedy
    else:
        fact, remedy = f"landlock_create_ruleset: {errno_name(refused)} on Linux {facts.kernel}", newer_kernel(facts)
    return Finding(
        id="landlock",
        what="a second fence around files and signals",
        status="limited",
        fact=fact,
        consequence="sessions have no Landlock: metadata.isolation does not name it",
        remedy=remedy,
    )


def _unrestricted(facts: Facts) -> Finding:
    abi = facts.native.get("landlock", 0)
    fine = abi >= landlock.ABI_WITH_SCOPES
    less = "" if fine else f"; abstract sockets are fenced from {landlock.ABI_WITH_SCOPES} on"
    return Finding(
        id="host-network",
        what="the policy `unrestricted` (--net)",
        status="ok" if fine else "limited",
        fact=f"Landlock ABI {abi}{less}",
        consequence="" if fine else "refused: a guest could reach the host's abstract sockets",
        remedy="" if fine else newer_kernel(facts),
    )


def _egress(facts: Facts) -> Finding:
    refused = facts.native["redirect"]
    return Finding(
        id="egress",
        what="allow-lists of hosts (--allow)",
        status="limited" if refused else "ok",
        fact=f"nftables: {errno_name(refused)}" if refused else "nftables redirects in a session's network",
        consequence="refused: only no network at all, or the host's" if refused else "",
        remedy="sudo modprobe -a nf_tables nft_chain_nat nft_redir" if refused else "",
    )


def _overlay(facts: Facts) -> Finding:
    """Needed for /etc, /opt and /var, but where a plain user's have mounts beneath them; a whole session tells."""
    error = facts.native["overlay"]
    if error == 0:
        return Finding(id="overlay", what="copy-on-write layers", status="ok", fact="overlayfs with userxattr mounted")
    needed = facts.trial is None or bool(facts.trial.error)
    return Finding(
        id="overlay",
        what="copy-on-write layers",
        status="missing" if needed else "limited",
        fact=f"overlay: {errno_name(error)}",
        consequence=(
            "no session can be made: /etc, /opt and /var are shown through overlays"
            if needed
            else "sockets and FIFOs of /etc, /opt and /var show inside; an owned root is refused"
        ),
        remedy="sudo modprobe overlay" if error == errno.ENODEV else newer_kernel(facts),
    )


def _idmap(facts: Facts) -> Finding:
    if facts.native.get("idmap"):
        return Finding(
            id="idmapped-mounts", what="mounts in a session's own ids", status="ok", fact=f"made on {facts.store.kind}"
        )
    return Finding(
        id="idmapped-mounts",
        what="mounts in a session's own ids",
        status="limited",
        fact=f"refused on {facts.store.kind}, where the store {facts.store.path} lies",
        consequence="host directories on this file system cannot be attached; the session's own files are chowned",
        remedy=(
            "docker run --volume alcove-store:/var/lib/alcove IMAGE"
            if facts.container or facts.store.kind == "overlay"
            else "export ALCOVE_HOME=DIRECTORY_ON_EXT4_XFS_BTRFS_OR_TMPFS"
        ),
    )

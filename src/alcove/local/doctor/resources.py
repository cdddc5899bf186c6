"""Findings about what is counted: cgroup controllers, rlimits, the kernel's tables, the store's file system."""

from collections.abc import Iterator

from alcove.local.cell.cgroups import OWN_PROCESSES
from alcove.local.doctor.causes import persistent
from alcove.local.doctor.facts import Facts
from alcove.local.doctor.report import Finding

_MIB = 1 << 20
_LITTLE_BYTES = 512 * _MIB
_LITTLE_INODES = 20_000
_FEW_PIDS = 65_536
_FEW_NAMESPACES = 256
_BUDGETS = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
# Not a local file system of this kernel's: ids, locks or speed are not what a store needs
_FOREIGN = frozenset({"9p", "cifs", "drvfs", "fuse", "fuse.sshfs", "fuseblk", "nfs", "nfs4", "smb3", "v9fs", "vfat"})
_AS_ROOT = 'sudo "$(command -v alcove)" run -- COMMAND'
# In the scope, our shell goes into a group of its own: a group with processes can give no controllers to its children
_DELEGATE = (
    "systemd-run --user --scope -p Delegate=yes -- sh -c "
    '\'cd "/sys/fs/cgroup$(sed -n s/^0:://p /proc/self/cgroup)" && mkdir own && echo $$ >own/cgroup.procs && cd && '
    'exec "$SHELL"\''
)


def judge_resources(facts: Facts) -> Iterator[Finding]:
    """Findings about limits and room."""
    yield _limit(facts, "memory", "memory_mb (--memory)")
    yield _limit(facts, "cpu", "cpu_count (--cpus)")
    yield _disk(facts)
    yield _pids(facts)
    yield _kill(facts)
    yield _rlimit("open-files", "descriptors of a process", facts.open_files, facts.default_open_files, "-n")
    yield _rlimit("user-processes", "processes of the user", facts.processes, facts.default_pids + OWN_PROCESSES, "-u")
    yield _pid_max(facts)
    yield _namespaces(facts)
    yield _store(facts)
    if not facts.store.error:
        yield _store_exec(facts)


def _limit(facts: Facts, controller: str, name: str) -> Finding:
    how = facts.cgroups.controllers.get(controller)
    if how:
        return Finding(id=controller, what=f"the limit {name}", status="ok", fact=f"{controller} controller of {how}")
    fact, remedy, alternatives = _why_no_controller(facts, controller)
    return Finding(
        id=controller,
        what=f"the limit {name}",
        status="limited",
        fact=fact,
        consequence="refused, unless the caller allows best_effort",
        remedy=remedy,
        alternatives=alternatives,
    )


def _disk(facts: Facts) -> Finding:
    if not facts.no_disk:
        fact = "an ext4 image for each session, on a loop device"
        return Finding(id="disk", what="the limit disk_mb (--disk)", status="ok", fact=fact)
    return Finding(
        id="disk",
        what="the limit disk_mb (--disk)",
        status="limited",
        fact=facts.no_disk,
        consequence="refused, unless the caller allows best_effort",
        remedy=_AS_ROOT if facts.uid else "sudo modprobe loop",
        alternatives=() if facts.uid else ("sudo apt-get install e2fsprogs",),
    )


def _why_no_controller(facts: Facts, controller: str) -> tuple[str, str, tuple[str, ...]]:
    groups = facts.cgroups
    container = {
        "memory": "docker run --memory 2g IMAGE",
        "cpu": "docker run --cpus 2 IMAGE",
        "pids": "docker run --pids-limit 2000 IMAGE",
    }[controller]
    if not groups.mounted:
        return "no cgroup file system is mounted", "sudo mount -t cgroup2 cgroup2 /sys/fs/cgroup", ()
    if groups.readonly:
        fact = "/sys/fs/cgroup is mounted read-only, as containers have it"
        return fact, "docker run --privileged IMAGE", (container,)
    if facts.uid == 0 or controller not in groups.offered:
        fact = f"neither cgroup v1 nor v2 gives this process the {controller} controller"
        if facts.systemd and facts.uid != 0:
            return fact, _AS_ROOT, (_DELEGATE,)
        return fact, _AS_ROOT if facts.uid else container, ()
    if facts.systemd:
        return "no group was delegated to this user", _DELEGATE, (_AS_ROOT,)
    return "no group was delegated to this user", _AS_ROOT, ()


def _pids(facts: Facts) -> Finding:
    how = facts.cgroups.controllers.get("pids")
    if how:
        return Finding(id="pids", what="the limit pids (--pids)", status="ok", fact=f"pids controller of {how}")
    return Finding(
        id="pids",
        what="the limit pids (--pids)",
        status="ok",
        fact="RLIMIT_NPROC, counted by the session's own user namespace",
    )


def _kill(facts: Facts) -> Finding:
    if facts.cgroups.unified and facts.cgroups.kill:
        fact = f"cgroup.kill below {facts.cgroups.unified}, and the end of the pid namespace"
        return Finding(id="kill", what="the end of everything in a session", status="ok", fact=fact)
    return Finding(
        id="kill", what="the end of everything in a session", status="ok", fact="the end of the pid namespace"
    )


def _rlimit(number: str, what: str, hard: int, wanted: int, option: str) -> Finding:
    if hard >= wanted:
        return Finding(id=number, what=what, status="ok", fact=f"up to {_count(hard)}; {wanted} by default")
    given = f"pids={hard - OWN_PROCESSES}" if option == "-u" else f"open_files={hard}"
    return Finding(
        id=number,
        what=what,
        status="limited",
        fact=f"the hard limit is {hard} (ulimit -H {option}), a session asks for {wanted}",
        consequence=f"a session is made with {given} at most, and its `limits` say so",
        remedy=f"sudo prlimit --pid $$ --{'nproc' if option == '-u' else 'nofile'}={wanted * 4}:{wanted * 4}",
    )


def _count(number: int) -> str:
    return "any number" if number >= 1 << 62 else str(number)


def _pid_max(facts: Facts) -> Finding:
    value = facts.sysctls.get("kernel.pid_max", 0)
    few = 0 < value < _FEW_PIDS
    sessions = max(value // max(facts.default_pids, 1), 1)
    return Finding(
        id="pid-max",
        what="process numbers of the host",
        status="limited" if few else "ok",
        fact=f"kernel.pid_max = {value}",
        consequence=f"{sessions} sessions at their `pids` limit use them up" if few else "",
        remedy=persistent("kernel.pid_max", 4_194_304) if few else "",
    )


def _namespaces(facts: Facts) -> Finding:
    counts = {name: facts.sysctls.get(f"user.max_{name}_namespaces") for name in _BUDGETS}
    known = {name: value for name, value in counts.items() if value is not None}
    name, least = min(known.items(), key=lambda item: item[1], default=("user", 0))
    few = bool(known) and least < _FEW_NAMESPACES
    return Finding(
        id="namespaces",
        what="namespaces of one user",
        status="limited" if few else "ok",
        fact=f"user.max_{name}_namespaces = {least}, the smallest" if known else "no bound of their own",
        consequence=f"room for {least // 2} sessions at once" if few else "",
        remedy=persistent(f"user.max_{name}_namespaces", 65_536) if few else "",
    )


def _store(facts: Facts) -> Finding:
    store = facts.store
    if store.error:
        return Finding(
            id="store",
            what="the store",
            status="missing",
            fact=store.error,
            consequence="no session can be kept",
            remedy='export ALCOVE_HOME="$HOME/.local/share/alcove"',
            alternatives=(f'sudo install -d -m 700 -o "$USER" {store.path}',),
        )
    if store.kind in _FOREIGN:
        return Finding(
            id="store",
            what="the store",
            status="limited",
            fact=f"{store.path} lies on {store.kind}",
            consequence="owners, locks and speed of files are not those of a local file system",
            remedy='export ALCOVE_HOME="$HOME/.local/share/alcove"',
        )
    little = store.free_bytes < _LITTLE_BYTES or store.free_inodes < _LITTLE_INODES
    return Finding(
        id="store",
        what="the store",
        status="limited" if little else "ok",
        fact=f"{store.path} on {store.kind}: {store.free_bytes // _MIB} MiB and {_count(store.free_inodes)} files free",
        consequence="sessions soon get ENOSPC" if little else "",
        remedy="export ALCOVE_HOME=DIRECTORY_WITH_ROOM" if little else "",
    )


def _store_exec(facts: Facts) -> Finding:
    if "noexec" not in facts.store.options:
        return Finding(id="store-exec", what="programs made in a session", status="ok", fact="the store is not noexec")
    return Finding(
        id="store-exec",
        what="programs made in a session",
        status="limited",
        fact=f"{facts.store.path} lies on a file system mounted noexec",
        consequence="nothing in /workspace and /tmp can be executed, only interpreted",
        remedy="export ALCOVE_HOME=DIRECTORY_ON_A_FILE_SYSTEM_WITH_EXEC",
    )

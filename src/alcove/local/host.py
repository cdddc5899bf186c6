"""What this host is, read once: identity, groups, kernel facts. Read-only, no privileges needed."""

import os
import subprocess
from contextlib import suppress

from msgspec import Struct

from alcove.contract import LifecycleError
from alcove.local.cell import cgroups

_PROBE_WITHIN_S = 10


class Host(Struct, frozen=True):
    """Facts that decide a plan."""

    uid: int
    gid: int
    arch: str
    cpus: int
    landlock_abi: int
    idmap: bool
    redirects: bool
    hierarchies: cgroups.Hierarchies

    @property
    def root(self) -> bool:
        """True when the caller is the host's root, so that sessions get a uid range of their own."""
        return self.uid == 0

    @property
    def layers(self) -> bool:
        """True when sessions can share layers: of root's, each has other ids, and only idmapped mounts bridge that."""
        return self.idmap or not self.root


def read(store: str, native: str) -> Host:
    """Read the facts. Those that need the launcher's system calls are kept in the store until the next boot.

    Raises:
        LifecycleError: the launcher does not run.
    """
    facts = _kernel_facts(store, native)
    machine = os.uname()
    return Host(
        uid=os.geteuid(),
        gid=os.getegid(),
        arch=machine.machine,
        cpus=len(os.sched_getaffinity(0)),
        landlock_abi=int(facts["landlock"]),
        idmap=facts["idmap"] == "1",
        redirects=facts.get("redirect") == "0",
        hierarchies=cgroups.detect(),
    )


def _kernel_facts(store: str, native: str) -> dict[str, str]:
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot = file.read().strip()
    kept = f"{store}/host-{boot}"
    with suppress(OSError, ValueError), open(kept) as file:
        facts = _parse(file.read())
        if facts.keys() >= {"landlock", "idmap", "redirect"}:
            return facts
    try:
        text = probe(native, store)
    except (OSError, subprocess.SubprocessError) as error:
        raise LifecycleError(f"the native launcher {native} does not run: {error}; reinstall Alcove") from None
    _keep(kept, text)
    return _parse(text)


def probe(native: str, store: str) -> str:
    """What the launcher says of this host: a fact a line, most of them errnos.

    Raises:
        OSError: it is not there.
        subprocess.SubprocessError: it fails, or does not end in time.
    """
    from alcove.egress import netlink, settings
    from alcove.egress.config import EgressConfig

    _, redirects = netlink.redirects(
        tcp_port=1, dns_port=2, resolver=settings.resolver(EgressConfig()), ipv6=settings.has_ipv6()
    )
    argv = [native, "--probe", store]
    done = subprocess.run(argv, input=redirects, capture_output=True, timeout=_PROBE_WITHIN_S, check=True)
    return done.stdout.decode()


def _parse(text: str) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in text.splitlines())


def _keep(path: str, text: str) -> None:
    temporary = f"{path}.{os.getpid()}"
    with suppress(OSError):
        with open(temporary, "w") as file:
            file.write(text)
        os.replace(temporary, path)

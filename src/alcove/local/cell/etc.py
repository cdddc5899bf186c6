"""The few files of /etc that a session needs of its own: generated once and shared, but for those of its identity.

Users of the host do not show; `nobody` stands for every id that the session does not map.
"""

import os
import zlib
from contextlib import suppress
from hashlib import blake2s

from msgspec import Struct

from alcove.contract import SandboxIoError
from alcove.local.removal import remove_tree

# a question that a service took along when it died is asked again after a second, not after five (resolv.conf(5))
_RESOLVER_OPTIONS = "options timeout:1 attempts:5\n"


class Identity(Struct, frozen=True):
    """What tells a session from every other, inside: of two forks of one snapshot each has its own."""

    hostname: str
    machine_id: str

    def files(self) -> dict[str, str]:
        """The files of /etc that say so."""
        return {
            "hosts": f"127.0.0.1 localhost {self.hostname}\n::1 localhost ip6-localhost ip6-loopback\n",
            "hostname": f"{self.hostname}\n",
            "machine-id": f"{self.machine_id}\n",
        }


def identity(key: str) -> Identity:
    """Return the identity of the session that has `key`, which it does not tell."""
    digest = blake2s(key.encode(), digest_size=16).hexdigest()
    return Identity(hostname=f"alcove-{digest[:8]}", machine_id=digest)


def generate(store: str, *, nameserver: str | None, users: bool) -> str:
    """Return the directory of the files, making it if this content was not there yet.

    `nameserver`: the session's own; None for the host's, whose network it then shares. `users`: the session has a uid
    range, so that there are users besides root.
    """
    files = _files(nameserver=nameserver, users=users)
    content = repr(sorted(files.items())).encode()
    # the host's own administrator is the only author: no stronger digest is worth loading one for
    directory = f"{store}/etc/{zlib.crc32(content):08x}{zlib.adler32(content):08x}"
    if os.path.isdir(directory):
        return directory
    temporary = f"{directory}.{os.getpid()}"
    try:
        os.makedirs(temporary, mode=0o755, exist_ok=True)
        for name, text in files.items():
            _write(f"{temporary}/{name}", text)
        os.rename(temporary, directory)
    except OSError as error:
        remove_tree(temporary)
        if not os.path.isdir(directory):  # else somebody else was first, with the same content
            raise SandboxIoError(f"the store {store} could not be written: {error.strerror}") from None
    return directory


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, 0o644)


def _files(*, nameserver: str | None, users: bool) -> dict[str, str]:
    shell = "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"
    people = ["daemon:x:1:1", "agent:x:1000:1000"] if users else []
    passwd = [f"root:x:0:0:root:/workspace:{shell}"]
    passwd += [f"{entry}::/workspace:{shell}" for entry in people]
    passwd.append("nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin")
    names = [entry.split(":", 1)[0] for entry in passwd]
    groups = ["root:x:0:", *(["daemon:x:1:", "tty:x:5:", "staff:x:50:", "agent:x:1000:"] if users else [])]
    groups.append("nogroup:x:65534:")
    return {
        "passwd": "\n".join(passwd) + "\n",
        "group": "\n".join(groups) + "\n",
        "shadow": "".join(f"{name}:*:19000:0:99999:7:::\n" for name in names),
        "gshadow": "root:*::\n",
        "resolv.conf": f"nameserver {nameserver}\n{_RESOLVER_OPTIONS}" if nameserver else _resolv_conf(),
    }


def _resolv_conf() -> str:
    """The host's, since an unrestricted session shares its network."""
    with suppress(OSError), open("/etc/resolv.conf") as file:
        return file.read()
    return ""

"""setid DIRECTORY: set-id and file-capability bits on files in a directory, by every call that can set them."""

import os
import shutil
import stat
import struct
import sys
import tarfile

from tests.security.hostile.raw import attempt, syscall

CAPABILITIES = struct.pack("<IIIII", 0x02000001, 0xFFFFFFFF, 0, 0xFFFFFFFF, 0)


def touch(path: str) -> str:
    with open(path, "w") as file:
        file.write("#!/bin/sh\nid\n")
    os.chmod(path, 0o755)
    return path


def umasked(path: str, mode: int) -> None:
    os.umask(0)
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, mode))


def unpacked(directory: str) -> None:
    with tarfile.open(f"{directory}/archive.tar", "w") as archive:
        member = tarfile.TarInfo("from-archive")
        member.mode = 0o6755
        archive.addfile(member)
    shutil.unpack_archive(f"{directory}/archive.tar", directory, "tar")
    if not os.stat(f"{directory}/from-archive").st_mode & (stat.S_ISUID | stat.S_ISGID):
        raise PermissionError(1, "no bit")


if __name__ == "__main__":
    place = sys.argv[1]
    for bits in (0o4755, 0o2755, 0o6711):
        attempt(f"chmod:{bits:o}", lambda: os.chmod(touch(f"{place}/c{bits:o}"), bits))  # noqa: B023
        attempt(f"fchmod:{bits:o}", lambda: os.fchmod(os.open(touch(f"{place}/f{bits:o}"), os.O_RDONLY), bits))  # noqa: B023
        attempt(f"fchmodat2:{bits:o}", lambda: syscall(452, -100, touch(f"{place}/a{bits:o}").encode(), bits, 0))  # noqa: B023
        attempt(f"open:{bits:o}", lambda: umasked(f"{place}/o{bits:o}", bits))  # noqa: B023
        attempt(f"mknod:{bits:o}", lambda: os.mknod(f"{place}/m{bits:o}", stat.S_IFREG | bits))  # noqa: B023
    attempt("archive", lambda: unpacked(place))
    attempt("capability", lambda: os.setxattr(touch(f"{place}/caps"), "security.capability", CAPABILITIES))
    attempt("plain", lambda: os.chmod(touch(f"{place}/plain"), 0o711))

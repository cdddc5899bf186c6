"""The store's own directories, and files in it that a dead process left."""

import os
import re
import stat
from collections.abc import Iterator

from alcove.local.disk import disk
from alcove.local.doctor.fsck.report import Damage, Patient
from alcove.local.locking import try_exclusively
from alcove.local.removal import remove_tree

_OURS_ALONE = 0o700
_DIRECTORIES = ("sessions", "layers", "etc", "prepared", "disks", "lost")
_FACTS = re.compile(r"host-[0-9a-f-]{36}(\.\d+)?")
_TRIALS = re.compile(r"(doctor|salvage)-[0-9a-f]+")


def check_modes(root: str, *, repair: bool) -> Iterator[Damage]:
    """Find directories of the store that others may enter."""
    for path in (root, *(f"{root}/{name}" for name in _DIRECTORIES)):
        if not os.path.lexists(path):
            continue
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            whose = f"uid {found.st_uid}'s" if stat.S_ISDIR(found.st_mode) else "no directory"
            yield Damage(id="modes", what=path, fact=f"is {whose}", remedy=f"move {path} away, or give it back to you")
        elif stat.S_IMODE(found.st_mode) != _OURS_ALONE:
            if repair or path == root:  # whoever opens the store does so
                os.chmod(path, _OURS_ALONE)
            fact = f"has mode {stat.S_IMODE(found.st_mode):04o}: others may get in"
            yield Damage(id="modes", what=path, fact=fact, done="mode 0700" if repair or path == root else "")


def check_leftovers(patient: Patient) -> Iterator[Damage]:
    """Find what nobody will need again: facts of earlier boots, trials and images of processes that were killed."""
    root = patient.store.root
    with open("/proc/sys/kernel/random/boot_id") as file:
        current = f"host-{file.read().strip()}"
    for name in sorted(os.listdir(root)):
        path = f"{root}/{name}"
        if _FACTS.fullmatch(name) and name != current:
            yield _gone(patient, path, "is of an earlier boot, or of a process that was killed")
        elif _TRIALS.fullmatch(name) and not _in_use(path):
            yield _gone(patient, path, "is a trial that was killed")
    for name in sorted(os.listdir(f"{root}/{disk.EMPTY}")):
        if not name.endswith(".ext4"):
            yield _gone(patient, f"{root}/{disk.EMPTY}/{name}", "was not made to its end")


def _gone(patient: Patient, path: str, fact: str) -> Damage:
    if patient.repair:
        if os.path.isdir(path):
            remove_tree(path)
        else:
            os.unlink(path)
    return Damage(id="leftover", what=path, fact=fact, done="removed" if patient.repair else "")


def _in_use(path: str) -> bool:
    """Whether somebody has this store open."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return not try_exclusively(fd)
    finally:
        os.close(fd)
